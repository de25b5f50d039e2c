"""Options of commands: kinds of values, flags, and files of options."""
