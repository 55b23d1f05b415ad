"""The standard output and error of a command: what is printed there never ends a command, nor moves a cursor.

A pipe may be closed (`| head -1`), a disk full (`>/dev/full`), a stream closed from the start (`>&-`), an encoding
unable to write a name. A run that trains for hours goes on all the same; `carry_out` in `commands/cli.py` says at the
end that its output was lost. Names come from folders and files of others, so what would move the cursor, or turn the
direction of the text around, becomes `?`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TextIO

# Characters that order the text around them, so that 2.9 % can look like % 9.2.
BIDI = '\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069'
# Of what moves a cursor only that is let through which the commands themselves print: new lines, tabs, a return at
# the beginning of a text, and "erase to the end of the line".
_UNSAFE = re.compile(rf'(?!\x1b\[K)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}]|(?<=[^\n])\r(?!\n)(?=[^\n]*\S)')


def safe(text: str) -> str:
    """A text as it may be printed."""
    return _UNSAFE.sub('?', text)


class Output(io.TextIOBase):
    """A text stream that drops what it cannot write.

    fault: the first error of writing, None as long as there was none.
    """

    def __init__(self, stream: TextIO) -> None:
        self.fault: OSError | None = None
        self._stream = stream
        self._strict = stream.errors if isinstance(stream, io.TextIOWrapper) else None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')

    def write(self, text: str, /) -> int:
        try:
            if not self._stream.closed:  # a logger may have kept it until the interpreter ends
                self._stream.write(safe(text))
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            if not self._stream.closed:
                self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Remember an error, and let all that is and will be written go nowhere: the interpreter flushes once more."""
        self.fault = self.fault or error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()

    def restore(self) -> None:
        """Give the stream back as it was."""
        self.flush()
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors=self._strict)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.errors


@contextlib.contextmanager
def streams() -> Iterator[Output]:
    """In the block `sys.stdout` and `sys.stderr` are `Output`s; yields the first."""
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, 'w') as nowhere:
        # Python has None for a stream that was closed from the start.
        out, err = (Output(nowhere if stream is None else stream) for stream in before)
        sys.stdout, sys.stderr = out, err
        try:
            yield out
        finally:
            sys.stdout, sys.stderr = before
            out.restore()
            err.restore()


def _fill_descriptors() -> None:
    """Open /dev/null in place of standard streams that are closed.

    The next file that is opened would get the number, and what libraries print would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
