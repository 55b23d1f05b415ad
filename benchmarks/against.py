"""mixjax against its alternatives: PyTorch with everything that makes it fast, and as in published scripts.

`benchmarks/torch_train.py` trains in a separate process, which waits while the other side is measured: the sides take
turns, on one device. It is judged on a GPU only: on a CPU the result depends on the number of threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import steps, timing
from benchmarks.parts import Part, Table, times
from benchmarks.steps import Case
from benchmarks.timing import Verdict, at_least, spread, unjudged
from mixjax.train import program
from mixjax.train.shared import shared_setup

SCRIPT = Path(__file__).parent / 'torch_train.py'
IMAGES, BORDER = 4096, 32  # as in torch_train.py
METHODS = {'plain': 'finetune', 'mixup': 'mixup', 'smile': 'smile'}
WAYS = ('tuned', 'resident', 'loader')
GPU = (Case('resnet50', 224, 256, 'bfloat16'), Case('preactresnet18', 32, 128, 'bfloat16'))
SHORT = (Case('small', 16, 8),)
TUNED, STOCK, RATE = 1.1, 5.0, 5400  # images/s to the tuned and to the stock script; of ResNet-50


class Torch:
    """A training script that waits for its turn."""

    def __init__(self, python: str, case: Case, method: str, way: str) -> None:
        asked = {'network': case.network, 'method': method, 'way': way, 'side': case.side, 'batch': case.batch}
        self._process = subprocess.Popen(
            [python, str(SCRIPT), json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self._read()['ready']

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f'torch_train.py ended with {self._process.wait()}')
        return json.loads(line)

    def train(self, count: int) -> float:
        """Return the seconds of so many steps, by the script's clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(f'{count}\n')
        self._process.stdin.flush()
        return self._read()['seconds']

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interpreter() -> str:
    """Return a Python that has torch: $TORCH_PYTHON, or this one; '' if there is none."""
    named = os.environ.get('TORCH_PYTHON', '')
    return named or (sys.executable if importlib.util.find_spec('torch') else '')


def has_module(python: str, name: str) -> bool:
    """Return whether an interpreter finds a module."""
    command = [python, '-c', f'import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)']
    return subprocess.run(command, capture_output=True).returncode == 0


def has_gpu(python: str) -> bool:
    command = [python, '-c', 'import torch, sys; sys.exit(not torch.cuda.is_available())']
    return subprocess.run(command, capture_output=True).returncode == 0


def measure(short: bool = False) -> Part:
    """Measure both sides; with `short`, try them on any device, and judge nothing."""
    python = interpreter()
    reason = ''
    if not short and jax.default_backend() != 'gpu':
        reason = timing.NO_GPU
    elif not python:
        reason = 'there is no torch here: pip install torch, or set TORCH_PYTHON'
    elif not short and not has_gpu(python):
        reason = 'torch sees no GPU here'
    if reason:
        return Part('Against PyTorch', [], [unjudged(what, reason) for what in targets(GPU)], {})
    tables, verdicts, numbers = [], [], {}
    for case in SHORT if short else GPU:
        rows = []
        for theirs, ours in METHODS.items():
            rates = images_a_second(python, case, theirs, ours, short)
            rows.append([theirs, *(f'{spread(rates[way]).median:,.0f}' for way in rates)])
            rows[-1] += [times(spread(rates['mixjax'] / rates[way])) for way in WAYS]
            numbers[f'{case.name}, {theirs}'] = {way: spread(each)._asdict() for way, each in rates.items()}
            verdicts += [] if short else judged(case, theirs, rates)
        about = f'Images in a second; {jax.devices()[0].device_kind}. Tuned: bfloat16, channels_last, torch.compile.'
        columns = ['method', 'mixjax', *(f'torch {way}' for way in WAYS), *(f'to {way}' for way in WAYS)]
        tables.append(Table(f'Against PyTorch: {case.name}', about, columns, rows))
    return Part('Against PyTorch', tables, verdicts, numbers)


def images_a_second(python: str, case: Case, theirs: str, ours: str, short: bool) -> dict[str, np.ndarray]:
    """Return {side: images/s in each round}."""
    count = 2 if short else 50
    with tempfile.TemporaryDirectory() as folder:
        made = steps.compile_steps(ours_of(case, ours), Path(folder))
        scripts = {way: Torch(python, case, theirs, way) for way in WAYS}
        try:
            rounds: dict[str, list[float]] = {}
            calls: dict[str, Callable[[], float]] = {'mixjax': lambda: timed(made, count)}
            calls |= {way: lambda one=one: one.train(count) for way, one in scripts.items()}
            for call in calls.values():
                call()
            for _ in range(2 if short else 9):
                for name, call in calls.items():
                    rounds.setdefault(name, []).append(case.batch * count / call())
        finally:
            for one in scripts.values():
                one.close()
            made.close()
    return {name: np.array(found) for name, found in rounds.items()}


def ours_of(case: Case, method: str) -> program.Program:
    """Build our side: as many images as the other side has, stored with the same border, on the device."""
    config = steps.settings(case, {'name': method})
    with config.unlocked():
        config.image.resize = config.synthetic.side = case.side + BORDER
        config.feed = 'resident'
    on = steps.with_classes(shared_setup(config.lock()), 10, IMAGES, case.side + BORDER)
    return program.build(config, on)


def timed(made: steps.CompiledSteps, count: int) -> float:
    """Return the seconds of about so many steps, scaled to exactly so many."""
    calls = max(1, round(count / made.count))
    found = timing.interleaved({'': made.call}, 1, repeats=calls)
    return float(found[''][0]) / made.count * count


def targets(cases: tuple[Case, ...]) -> list[str]:
    out = [
        f'{theirs}: images/s >= {least} x torch {way} ({case.name})'
        for case in cases
        for theirs in METHODS
        for way, least in (('tuned', TUNED), ('loader', STOCK))
    ]
    return [*out, f'plain: images/s >= {RATE:,} ({cases[0].name})']


def judged(case: Case, theirs: str, rates: dict[str, np.ndarray]) -> list[Verdict]:
    out = []
    for way, least in (('tuned', TUNED), ('loader', STOCK)):
        what = f'{theirs}: images/s >= {least} x torch {way} ({case.name})'
        out.append(at_least(what, spread(rates['mixjax'] / rates[way]), least))
    if theirs == 'plain' and case == GPU[0]:
        out.append(at_least(f'plain: images/s >= {RATE:,} ({case.name})', spread(rates['mixjax']), RATE, 0))
    return out
