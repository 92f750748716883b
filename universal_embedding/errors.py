"""The one error that a user can cause."""


class UserError(Exception):
    """What the user gave cannot be used.

    The message names the value, where it came from and the remedy. Programs print it as one line
    and exit with code 1, without a traceback; see `universal_embedding.command.run`.
    """
