"""The one exception that reaches a user as a line of text."""


class UserError(Exception):
    """Something the user can mend: printed as one line, exit code 2, no traceback.

    The message names the thing at fault, its value, what was expected and what to do.
    """
