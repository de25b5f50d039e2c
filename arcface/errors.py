"""UserError: the error that commands show to their user."""


class UserError(Exception):
    """Something the user can fix: the message says in one line what, where and what to do; exit code 2."""
