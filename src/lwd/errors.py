"""What a user is meant to read: an exception and a warning whose messages are sentences that say what is wrong, where, and what to do."""


class LWDError(Exception):
    """Bad input, a missing extra, a run that cannot be resumed: printed by the command line without a traceback (exit code 2)."""


class LWDWarning(UserWarning):
    """Something that may be wrong with the input, which is used all the same: printed by the command line as one line."""
