"""The one exception a user is meant to see, and the hint that goes with it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A wrong input, told in one sentence that says what to do.

    Commands print the message and end with exit code 2; they never show a traceback for it.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """`'; did you mean 'x'?'` for the known name closest to `name`, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'; did you mean {match[0]!r}?' if match else ''


def require(condition: bool, sentence: str) -> None:
    """Raise `UserError(sentence)` unless the condition holds."""
    if not condition:
        raise UserError(sentence)
