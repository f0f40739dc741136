"""The one exception that a user is meant to read: its message is a sentence that says what is wrong, where, and what to do."""


class LWDError(Exception):
    """Bad input, a missing extra, a run that cannot be resumed: printed by the command line without a traceback (exit code 2)."""
