"""Exceptions of mixjax, and helpers for their messages.

A `UserError` is the only exception that users are meant to see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

TRACEBACK = 'MIXJAX_TRACEBACK'  # environment variable: print the whole traceback in front of the sentence
LONGEST = 300  # characters shown of the message of a foreign error


class UserError(Exception):
    """A wrong input; the message is one sentence that says what to do.

    Commands print the message and end with the exit code `code`; they never show a traceback for it.
    """

    code = 2


class Busy(UserError):
    """A folder that another process is already using; nothing is wrong."""

    code = 3


class Stopped(BaseException):
    """Request to end the process, raised after its work was saved; the same command resumes from there.

    Like `KeyboardInterrupt` it is not an `Exception`, so that no handler on the way catches it.
    """

    code = 42


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `'; did you mean 'x'?'` with the known name closest to `name`, or ''."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'; did you mean {match[0]!r}?' if match else ''


def require(condition: bool, sentence: str) -> None:
    """Raise `UserError(sentence)` unless the condition holds."""
    if not condition:
        raise UserError(sentence)


def show(error: UserError) -> None:
    """Print an error to stderr: its message, after the traceback if the variable `TRACEBACK` is set."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    print(f'mixjax: {error}', file=sys.stderr)


# --- errors in code that is not mixjax's ------------------------------------------------------------------------------


@contextlib.contextmanager
def user_code(what: str, function: Any = None, only: type[Exception] = Exception) -> Iterator[None]:
    """Turn an exception of the block into a `UserError` that names `what` and the file and line of the user's code.

    A `UserError` passes unchanged. So do a full disk and too little memory, which are not mistakes of the code.

    Args:
      what: beginning of the message.
      function: the function that the block calls. Its file separates the user's lines of a traceback from those of
        libraries.
      only: type of the exceptions that come from the user's code, where the block runs other code too.
    """
    try:
        yield
    except UserError:
        raise
    except only as error:
        if _of_the_machine(error):
            raise
        place = _place(error, function)
        place = f'{place}; ' if place else ''
        raise UserError(
            f'{what} raised {type(error).__name__}: {_sentence(error)} ({place}{TRACEBACK}=1 shows the traceback)'
        ) from error


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """A user's function, wrapped so that its exceptions become `UserError`s.

    Two are equal if their functions are, so that compiled programs are shared.

    Attributes:
      function: the function.
      what: beginning of the message of an error.
    """

    function: Callable[..., Any]
    what: str = dataclasses.field(compare=False)

    def __call__(self, *given: Any) -> Any:
        with user_code(self.what, self.function):
            return self.function(*given)


def _of_the_machine(error: Exception) -> bool:
    mistakes = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES)
    if isinstance(error, OSError):
        return error.errno not in mistakes
    return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)


def _sentence(error: Exception) -> str:
    """Return the message of an exception on one line; long messages of JAX are shortened."""
    import jax

    short: list[tuple[type[Exception], str]] = [
        (
            jax.errors.TracerBoolConversionError,
            'a traced value was used as a Python bool (`if`, `while`, `and`, `not`, `max`); use jnp.where',
        ),
        (
            jax.errors.TracerArrayConversionError,
            'a traced value was given to numpy, or to float() or int(); use jax.numpy',
        ),
        (
            jax.errors.NonConcreteBooleanIndexError,
            'an array was indexed by a traced mask, whose size is not known; use jnp.where',
        ),
        (
            jax.errors.UnexpectedTracerError,
            'a traced value was kept from an earlier trace (in a list, a global or an attribute); return it in '
            "Aux.carry or in the method's state",
        ),
        (
            jax.errors.ConcretizationTypeError,
            'a traced value was used where Python needs a number (int(), float(), range(), a shape); take it from a '
            'setting, a shape or ctx.run',
        ),
    ]
    for kind, text in short:
        if isinstance(error, kind):
            return text
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = said.strip().splitlines() or ['(no message)']
    return lines[0] if len(lines[0]) <= LONGEST else f'{lines[0][:LONGEST]} ..'


def _place(error: Exception, function: Any) -> str:
    """Return `my_method.py, line 12`: the innermost line of the user's code, or the function that was called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f'{Path(error.filename).name}, line {error.lineno}'
    code = _code(function)
    file = code.co_filename if code else ''
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [one for one in lines if _own(one[0], Path(file).parent if file else None)]
    if own:
        return f'{Path(own[-1][0]).name}, line {own[-1][1]}'
    return f'{Path(file).name}, line {code.co_firstlineno}' if code and not _ours(file) else ''


def _code(function: Any) -> Any:
    """Return the code object of a function, of the function inside a partial or a wrapper, or of a callable object."""
    if isinstance(function, UserFunction):
        return _code(function.function)
    if isinstance(function, functools.partial):
        return _code(function.func)
    if inspect.ismethod(function):
        return function.__func__.__code__
    if inspect.isfunction(function):
        return inspect.unwrap(function).__code__
    called = type(function).__call__ if callable(function) and not inspect.isclass(function) else None
    return called.__code__ if inspect.isfunction(called) else None


def _ours(file: str) -> bool:
    """Return whether a file is part of mixjax; its methods do not count, since they are written like a user's."""
    package = Path(__file__).parent
    return Path(file).is_relative_to(package) and not Path(file).is_relative_to(package / 'methods')


def _own(file: str, folder: Path | None) -> bool:
    """Return whether a file is in the user's folder, and not in a library below it."""
    path = Path(file)
    if folder is None:
        return path.exists() and not _ours(file) and not _library(path)
    return path.is_relative_to(folder) and not _ours(file) and not _library(path.relative_to(folder))


def _library(path: Path) -> bool:
    return 'site-packages' in path.parts or path.is_relative_to(Path(os.__file__).parent)
