"""Every method against plain fine-tuning: the time, the work and the memory of a training step.

Network, batch and process are the same. A ratio is compared with its floor: the passes through the network that the
method needs at least, where forward, gradient by the input and gradient by the parameters are one each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import steps, timing
from benchmarks.parts import Part, Table, mib, ms, times
from benchmarks.steps import Case, CompiledSteps
from benchmarks.timing import Verdict
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.train import program, seeds

BASE = 'finetune'


class Claim(NamedTuple):
    """A claim on the ratio of a step's time to that of fine-tuning.

    floor: the ratio of the passes.
    target: None if nothing is claimed.
    """

    floor: float
    target: float | None = None


PLAIN = Claim(1.0, 1.05)
CLAIMS: dict[str, Claim] = {
    **{name: PLAIN for name in ('l2sp', 'rifle', 'regsl', 'cotuning', 'label_smoothing')},
    **{name: PLAIN for name in ('mixup', 'cutmix', 'xmixup', 'lamix')},
    'manifold_mixup': Claim(1.0, 1.10),
    'bss': Claim(1.0, 1.10),
    'smile': Claim(4 / 3, 1.40),
    'delta': Claim(4 / 3, 1.40),
    'puzzlemix': Claim(5 / 3, 1.90),
    'lamix_puzzle': Claim(5 / 3, 1.90),  # the saliency at every step, also at those with original images
    'seqtrain': Claim(2.0, 2.10),  # both of its stages, each as long as a run of the others
    'cotrain': Claim(2.0),
    'feature_extraction': Claim(1 / 3),
    'xcutmix': PLAIN,
    'rdrop': PLAIN,  # of a network without dropout of its own; of another one two passes
    'distill': Claim(4 / 3),
    'supcon': Claim(2.0),
    'selftrain': Claim(2.0),
    'fixmatch': Claim(15.0),
    **{name: Claim(2 / 3) for name in ('bitfit', 'lntune')},
    'lora': Claim(1.0),
    **{name: PLAIN for name in ('lpft', 'ema', 'wiseft')},
    'sam': Claim(2.0, 2.10),
}
HALF = 0.55  # ratio of XMixup to Co-Train
SOLVER = ('puzzlemix', 'lamix_puzzle')  # solve for a mask besides their passes
FIRST, SECOND = ', first stage', ', second stage'  # end the names of the stages of a method that has two
CPU = (Case('small', 32, 48),)
GPU = (
    Case('resnet50', 224, 48, 'bfloat16'),
    Case('resnet50', 224, 256, 'bfloat16'),
    Case('efficientnet_b4', 380, 48, 'bfloat16'),
    Case('preactresnet18', 32, 128, 'bfloat16'),
)
SHORT = (Case('glyphnet', 16, 8),)


def ways_of() -> dict[str, dict[str, Any]]:
    """Return {name: method config} of all measured methods besides fine-tuning: those that take steps."""
    every = {name: {'name': name} for name in method_registry.names() if name != BASE}
    every = {name: method for name, method in every.items() if method_registry.build(method, 10).trains}
    return {**every, 'lamix_puzzle': {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0}}


def measure(short: bool = False, only: tuple[str, ...] = ()) -> Part:
    """Measure the methods.

    Args:
      short: try everything, and judge nothing.
      only: the methods besides fine-tuning; () for all.
    """
    cases = SHORT if short else CPU if jax.default_backend() == 'cpu' else GPU
    methods = {name: method for name, method in ways_of().items() if not only or name in only}
    tables, verdicts, numbers = [], [], {}
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            ways, shares, refused = programs(case, methods, Path(folder))
            found = timing.interleaved({name: way.call for name, way in ways.items()}, 2 if short else 21)
            for way in ways.values():
                way.close()
        found = {name: each / ways[name].count for name, each in found.items()}
        ways, found = with_totals(ways, found, shares)
        tables.append(table(case, ways, found, refused))
        # Steps too small to be judged are only tried.
        verdicts += [] if short else judged(case, found)
        numbers[case.name] = as_data(ways, found)
    if cases == CPU:
        what = 'the targets of the methods, on {}'
        verdicts += [timing.unjudged(what.format(case.name), timing.NO_GPU) for case in GPU]
    return Part('Methods against plain fine-tuning', tables, verdicts, numbers)


def programs(
    case: Case, methods: Mapping[str, Mapping[str, Any]], folder: Path
) -> tuple[dict[str, CompiledSteps], dict[str, float], dict[str, str]]:
    """Return {name: its program}, {name: length of its first stage}, and {name: why this network cannot have it}.

    The two stages of a method with a first one are two programs.
    """
    on = steps.build_shared(case)
    ways, shares, refused = {}, {}, {}
    for name, method in {BASE: {'name': BASE}, **methods}.items():
        try:
            built = program.build(steps.settings(case, method), on)
            first = built.method.first
            ways[name + (SECOND if first else '')] = steps.compile_steps(built, folder / name)
            if first:
                stage = seeds.first_stage(built, seeds.load_or_prepare(built, built.config.seed, folder / name))
                ways[name + FIRST] = steps.compile_steps(stage, folder / name / 'first')
                shares[name] = first.share
        except UserError as error:
            refused[name] = str(error).partition('\n')[0]
    return ways, shares, refused


def with_totals(
    ways: Mapping[str, CompiledSteps], found: Mapping[str, np.ndarray], shares: Mapping[str, float]
) -> tuple[dict[str, CompiledSteps], dict[str, np.ndarray]]:
    """Add to the stages of a method its total: the cost of a step with its share of the first stage."""
    ways, found = dict(ways), dict(found)
    for name, share in shares.items():
        first, second = ways[name + FIRST], ways[name + SECOND]
        ways[name] = second._replace(
            flops=second.flops + share * first.flops,
            temporary=max(first.temporary, second.temporary),
            arguments=max(first.arguments, second.arguments),
        )
        found[name] = found[name + SECOND] + share * found[name + FIRST]
    return ways, found


def table(case: Case, ways: dict[str, CompiledSteps], found: dict[str, np.ndarray], refused: dict[str, str]) -> Table:
    rows = []
    for name, way in sorted(ways.items(), key=lambda item: (item[0] != BASE, CLAIMS.get(item[0], PLAIN).floor)):
        claim = CLAIMS.get(name, Claim(1.0))
        floor = f'{claim.floor:.2f}' + (' + solver' if name in SOLVER else '')
        rows.append(
            [
                f'`{name}`', ms(timing.spread(found[name])), times(timing.ratio(found[name], found[BASE])), floor,
                f'{way.flops / ways[BASE].flops:.2f}', mib(way.temporary),
            ]
        )  # fmt: skip
    about = 'Ratios are to fine-tuning in the same round: median and quartiles; work as the compiler counts it.'
    if refused:
        about += ' Not with this network: ' + '; '.join(f'{name} ({why})' for name, why in refused.items()) + '.'
    columns = ['method', 'ms/step', 'time, ratio', 'floor', 'work, ratio', 'temporary memory, MiB']
    return Table(f'Methods: {case.name}', about, columns, rows)


def judged(case: Case, found: dict[str, np.ndarray]) -> list[Verdict]:
    out = []
    for name, claim in CLAIMS.items():
        if claim.target is not None and name in found:
            what = f'{name} / finetune <= {claim.target:.2f} ({case.name})'
            out.append(timing.judged(what, timing.ratio(found[name], found[BASE]), claim.target))
    if {'xmixup', 'cotrain'} <= found.keys():
        what = f'xmixup / cotrain <= {HALF} ({case.name})'
        out.append(timing.judged(what, timing.ratio(found['xmixup'], found['cotrain']), HALF))
    return out


def as_data(ways: dict[str, CompiledSteps], found: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: {
            'seconds': timing.spread(found[name])._asdict(),
            'ratio': timing.ratio(found[name], found[BASE])._asdict(),
            'flops': way.flops,
            'temporary bytes': way.temporary,
            'argument bytes': way.arguments,
        }
        for name, way in ways.items()
    }
