"""Doctor: checks a machine, and the data and directories of a training command (`python -m arcface.doctor`)."""
