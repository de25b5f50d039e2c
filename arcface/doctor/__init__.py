"""`python -m arcface.doctor`: examines a machine, and the data and directories of a training command."""
