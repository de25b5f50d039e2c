"""Doctor: examines this machine, and the data and directories of a training command."""
