"""Training steps of today's networks: their work, their memory with and without `remat`, methods, and torch.

The work of a forward pass as the compiler counts it is compared with the published number of multiply-accumulates. It
may be a little above: normalisation, softmax and activations are counted too. torch's side (`torch_train.py`, with
timm's network) is float32 and eager, with the same batch and threads, and takes turns with ours: a figure, no target.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import against, steps, timing
from benchmarks.parts import Part, Table, mib, times
from benchmarks.steps import Case
from benchmarks.timing import HOLDS, MISSED, Verdict
from mixjax import models
from mixjax.train import program

# Multiply-accumulates of a forward pass at 224 pixels, in the tables of DeiT (ViT-S: 4.6e9) and ConvNeXt (T: 4.5e9),
# to the digits of the sum over the layers.
PUBLISHED = {'vit_small_patch16_224': 4.60e9, 'convnext_tiny': 4.46e9}
WORK = 0.02  # how far the compiler's count of the work may be from the published one
METHODS = ('finetune', 'mixup', 'smile')
REMAT = 'finetune, remat'
CPU = tuple(Case(name, 224, 8) for name in PUBLISHED)
GPU = tuple(Case(name, 224, 128, 'bfloat16') for name in PUBLISHED)
SHORT = (Case('vit_tiny_patch16_224', 32, 2), Case('convnext_atto', 32, 2))


def macs(case: Case) -> float:
    """Return the multiply-accumulates of a forward pass of one image, by the compiler's count of the work."""
    net, image = models.build(case.network), jnp.zeros((1, case.side, case.side, 3))
    variables = jax.eval_shape(lambda key: net.init(key, image, {'target': 1000}), jax.random.key(0))
    compiled = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].logits).lower(variables, image).compile()
    cost: Any = compiled.cost_analysis()
    return cost.get('flops', 0.0) / 2


def measure(short: bool = False) -> Part:
    """Measure the networks; with `short`, small ones, and judge nothing."""
    cases = SHORT if short else CPU if jax.default_backend() == 'cpu' else GPU
    python = against.interpreter()
    tables, verdicts, numbers, rows = [], [], {}, []
    for case in cases:
        counted, published = macs(case), PUBLISHED.get(case.network, 0.0)
        found, memory = step_times(case, short, python)
        base = found['finetune']
        for name, each in found.items():
            rows.append([
                case.network, name, f'{timing.spread(each).median:.3f}', times(timing.ratio(each, base)),
                mib(memory[name]) if name in memory else '-',
            ])  # fmt: skip
        numbers[case.name] = {
            'multiply-accumulates': counted, 'published': published,
            'seconds': {name: timing.spread(each)._asdict() for name, each in found.items()},
            'temporary bytes': memory,
        }  # fmt: skip
        if published:
            want = f'{published / 1e9:.2f}e9 multiply-accumulates'
            what = f'{case.network}: work of a forward pass within {WORK:.0%} of {want}'
            near = abs(counted / published - 1) <= WORK
            verdicts.append(Verdict(what, f'{counted / 1e9:.2f}e9', HOLDS if near else MISSED))
    about = (
        f'{cases[0].side} pixels, batch {cases[0].batch}, {cases[0].dtype}. Seconds of a step; ratios are to '
        'fine-tuning in the same round: median and quartiles. Memory is that of a step besides its arguments. torch is '
        "float32 and eager, with timm's network."
    )
    columns = ['network', 'step', 's', 'time, ratio', 'temporary memory, MiB']
    tables.append(Table("Today's networks", about, columns, rows))
    return Part("Today's networks", tables, verdicts, numbers)


def step_times(case: Case, short: bool, python: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return {name: seconds of a step in each round}, and {name: temporary bytes} of our steps."""
    settings = {name: steps.settings(case, {'name': name}) for name in METHODS}
    settings[REMAT] = steps.settings(case, {'name': 'finetune'})
    with settings[REMAT].unlocked():
        settings[REMAT].model.remat = True
    with tempfile.TemporaryDirectory() as folder:
        made = {
            name: steps.compile_steps(program.build(config), Path(folder, name)) for name, config in settings.items()
        }
        torch = None
        if python and against.has_module(python, 'timm'):
            torch = against.Torch(python, case, 'plain', 'resident')
        calls = {name: one.call for name, one in made.items()}
        if torch is not None:
            calls['torch, finetune'] = lambda: torch.train(1)
        try:
            found = timing.interleaved(calls, 2 if short else 3 if jax.default_backend() == 'cpu' else 7)
        finally:
            if torch is not None:
                torch.close()
            for one in made.values():
                one.close()
    found = {name: each / (made[name].count if name in made else 1) for name, each in found.items()}
    return found, {name: one.temporary for name, one in made.items()}
