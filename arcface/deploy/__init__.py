"""Former names of commands, which still work."""
