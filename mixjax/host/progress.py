"""Progress output: one moving line on a terminal, plain lines elsewhere (a file, a notebook)."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from typing import TextIO

PLAIN_EVERY = 10.0  # seconds between lines where the output is not a terminal
SHOWN_EVERY = 0.1


def duration(seconds: float) -> str:
    """Format a duration: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


@dataclasses.dataclass
class Progress:
    """Progress of a run over the steps of all methods and seeds.

    Attributes:
      total: number of all steps.
      stream: where it is printed; None for stdout.
      quiet: print nothing.
      done: number of steps done, including those of a checkpoint.
      label: label of the current method.
      trained: number of steps trained by this process, without those of a checkpoint.
    """

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
        """Begin another method, with this label; the loss of the previous one is dropped."""
        self.label, self._loss = label, None

    def _out(self) -> TextIO:
        return self.stream or sys.stdout

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.quiet:
            return
        self.clear()
        print(text, file=self._out(), flush=True)

    def say_once(self, text: str) -> None:
        """Print a line that stays, unless it was printed before."""
        if text not in self._said:
            self.say(text)
        self._said.add(text)

    def phase(self, text: str, often: bool = False) -> None:
        """Show what is being done and may take a while: on a terminal until the next output, elsewhere as a line.

        Args:
          text: the text.
          often: the phase is frequent, so outside a terminal print it only ten seconds after the last such line.
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
        """Count steps that a checkpoint already holds."""
        self.done += steps

    def step(self, seed: int | str, step: int, steps: int, loss: float | None, count: int) -> None:
        """Count and show steps that were done.

        Args:
          seed: the seed, or a name of several.
          step: the last step of this seed.
          steps: number of steps of this seed.
          loss: the last known loss; None keeps the one before.
          count: number of steps done since the last call.
        """
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
    """A progress bar for a pass over a data set: one moving line on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, what: str, *, unit: str = '', scale: int = 1, done: int = 0) -> None:
        """Begin at `done` of `total`; both are shown divided by `scale`, with the unit behind them."""
        self.total, self._what, self._done, self._first = total, what, done, done
        self._unit, self._scale = f' {unit}' if unit else '', scale
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
            left = (now - self._began) * (self.total - self._done) / max(self._done - self._first, 1)
            done, total = self._done // self._scale, self.total // self._scale
            line = f'{self._what}, {done:,} of {total:,}{self._unit}, {left:.0f} s left'
            print(
                f'\r{line}\033[K' if self._moving else line, end='\n' * (not self._moving), file=sys.stderr, flush=True
            )

    def close(self) -> None:
        if self._moving:
            print('\r\033[K', end='', file=sys.stderr, flush=True)
