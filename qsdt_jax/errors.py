"""The exceptions for what a user can mend."""


class UserError(Exception):
    """A mistake of the user's (file, config, checkpoint, image), told in one clear line.

    The message says what was expected and what was found. The command line prints it without a
    traceback and exits with status 2; a traceback is for bugs.
    """


class CorruptRecord(UserError):
    """One example of a data set that cannot be read; training may go on without it."""
