"""The one exception a user is meant to see, and the hint that goes with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A wrong input, told in one sentence that says what to do.

    Commands print the message and end with the exit code `code`; they never show a traceback for it.
    """

    code = 2


class Busy(UserError):
    """Nothing is wrong, but another process is at it."""

    code = 3


class Stopped(BaseException):
    """The process was told to end, and what it has done is saved. The same command goes on from there.

    Like `KeyboardInterrupt` it is no `Exception`: nobody handles it on its way.
    """

    code = 42


def nearest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean 'x'?'` for the known name closest to `name`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'; did you mean {match[0]!r}?' if match else ''


def require(condition: bool, sentence: str) -> None:
    """Raise `UserError(sentence)` unless the condition holds."""
    if not condition:
        raise UserError(sentence)
