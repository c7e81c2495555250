"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A mistake of the user's (file, config, checkpoint, image), told in one clear line.

    The message says what was expected and what was found. The command line prints it without a
    traceback and exits with status 2; a traceback is for bugs.
    """
