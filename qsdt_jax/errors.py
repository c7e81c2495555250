"""The exceptions for what a user can mend."""


class UserError(Exception):
    """A mistake of the user's (file, config, checkpoint, image), told in one clear line.

    The message says what was expected and what was found. The command line prints it without a
    traceback and exits with status 2; a traceback is for bugs.
    """


class OutOfRange(UserError):
    """A value that is refused, told as "fsdp=3 does not divide the 8 devices".

    Attributes:
      name: of the argument, which callers may know by another name.
      told: what follows the name and "=", from the value on.
    """

    def __init__(self, name: str, told: str):
        super().__init__(f"{name}={told}")
        self.name, self.told = name, told


class CorruptRecord(UserError):
    """One example of a data set that cannot be read; training may go on without it."""
