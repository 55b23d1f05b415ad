"""What a person sees while a run works: one moving line on a terminal, plain lines elsewhere (a file, a notebook)."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from typing import TextIO

PLAIN_EVERY = 10.0  # seconds between lines where the output is not a terminal
SHOWN_EVERY = 0.1


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


@dataclasses.dataclass
class Progress:
    """Counts the steps of all methods and seeds. `total` is all of them; the rest is its own business."""

    total: int
    stream: TextIO | None = None
    quiet: bool = False
    done: int = 0
    label: str = ''
    _started: float = 0.0  # when the first step was done, so that its compilation does not count
    _first: int = 0
    trained: int = 0  # steps trained now, not read back from a checkpoint
    _loss: float | None = None
    _shown: float = 0.0
    _line: int = 0  # width of the moving line
    _said: set[str] = dataclasses.field(default_factory=set)

    def begin(self, label: str) -> None:
        """Another method: the last one's loss says nothing of it."""
        self.label, self._loss = label, None

    def _out(self) -> TextIO:
        return self.stream or sys.stdout

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        self.clear()
        print(text, file=self._out(), flush=True)

    def say_once(self, text: str) -> None:
        """A line that stays, unless it has been said."""
        if text not in self._said:
            self.say(text)
        self._said.add(text)

    def phase(self, text: str, often: bool = False) -> None:
        """What is done now and may take a while: on a terminal until the next thing is shown, else a line.

        often: it comes again and again, so no line unless the last one was ten seconds ago.
        """
        if self.quiet:
            return
        text = f'{self.label}  {text}' if self.label else text
        if not self._out().isatty():
            if not often or time.monotonic() - self._shown >= PLAIN_EVERY:
                self._shown = time.monotonic() if often else self._shown
                print(text, file=self._out(), flush=True)
            return
        print('\r' + text.ljust(self._line), end='', file=self._out(), flush=True)
        self._line = len(text)

    def clear(self) -> None:
        if self._line:
            print('\r' + ' ' * self._line + '\r', end='', file=self._out(), flush=True)
            self._line = 0

    def skip(self, steps: int) -> None:
        """Steps that a checkpoint already holds."""
        self.done += steps

    def step(self, seed: int | str, step: int, steps: int, loss: float | None, count: int) -> None:
        """`count` steps were done; `step` of `steps` of this seed, or of these. loss: the last one known."""
        self.done += count
        self._loss = loss if loss is not None else self._loss
        self.trained += count
        now, terminal = time.monotonic(), self._out().isatty()
        if not self._started:
            self._started, self._first = now, self.trained
        if self.quiet or now - self._shown < (SHOWN_EVERY if terminal else PLAIN_EVERY):
            return
        self._shown = now
        known = self.trained - self._first
        left = (now - self._started) / max(known, 1) * (self.total - self.done)
        text = f'{self.label}  seed {seed}  step {step}/{steps}'
        text += '' if self._loss is None else f'  loss {self._loss:.3f}'
        text += f'  {duration(left)} left' if known else ''
        if not terminal:
            print(text, file=self._out(), flush=True)
            return
        cells = 20 * self.done // max(self.total, 1)
        text = f'[{"#" * cells}{"." * (20 - cells)}] {text}'
        print('\r' + text.ljust(self._line), end='', file=self._out(), flush=True)
        self._line = len(text)


class Bar:
    """How far a pass over a data set is: one moving line on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self._what, self._done = total, what, 0
        self._began = self._shown = time.monotonic()
        self._moving = sys.stderr.isatty()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._shown < (0.1 if self._moving else 10):
                return
            self._shown = now
            left = (now - self._began) * (self.total / self._done - 1)
            line = f'{self._what}, {self._done:,} of {self.total:,}, {left:.0f} s left'
            print(
                f'\r{line}\033[K' if self._moving else line, end='\n' * (not self._moving), file=sys.stderr, flush=True
            )

    def close(self) -> None:
        if self._moving:
            print('\r\033[K', end='', file=sys.stderr, flush=True)
