"""UserError, the error that commands show as one line."""


class UserError(Exception):
    """An error that the user can fix; the message says on one line what is wrong, where, and what to do. Exit code 2."""
