"""The errors that mean: what you gave cannot be used, and here is what can."""


class InvalidInput(ValueError):
    """A value that the user gave cannot be used; the message says what was given, what is allowed and what to do.

    The command prints it as one line, `bdjax: ...`, and ends with status 2.
    """


class Damaged(InvalidInput):
    """A file of a study is not what was once written there. A study that runs sets it aside and makes it again."""
