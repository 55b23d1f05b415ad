"""Standard output and error of a command: printing never ends the command and never moves the cursor.

A pipe may be closed (`| head -1`), a disk full (`>/dev/full`), a stream closed from the start (`>&-`), an encoding
unable to write a name. A run that trains for hours continues all the same; the command reports at its end that output
was lost. Names come from folders and files of others, so characters that would move the cursor, or change the
direction of the text, become `?`.
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
# Of the characters that move a cursor only those that the commands print are let through: new lines, tabs, a return
# at the beginning of a text, and "erase to the end of the line".
_UNSAFE = re.compile(rf'(?!\x1b\[K)[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}]|(?<=[^\n])\r(?!\n)(?=[^\n]*\S)')


def safe(text: str) -> str:
    """Return a text with unsafe characters replaced by `?`."""
    return _UNSAFE.sub('?', text)


class Output(io.TextIOBase):
    """A text stream that drops what it cannot write.

    Attributes:
      fault: the first error of writing; None if there was none.
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
        """Keep the error and redirect the stream to /dev/null, since the interpreter flushes it once more at exit."""
        self.fault = self.fault or error
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()

    def restore(self) -> None:
        """Restore the stream's error handling."""
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
    """Replace `sys.stdout` and `sys.stderr` by `Output`s in the block; yields the first."""
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
    """Open /dev/null in place of closed standard streams.

    Otherwise the next file that is opened would get the number, and the output of libraries would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
