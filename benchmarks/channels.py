"""What DELTA's channel attention costs: the loss without each channel of a layer, for one batch of images.

    python -m benchmarks.channels

Writes the section "channels" of docs/speed.md. Two minutes on two CPU cores. Work is counted in forward passes of the
whole network, as the compiler counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.parts import Table, ms, table, times
from mixjax import attention, halves, models
from mixjax.models.layers import Stem
from mixjax.models.net import Net, from_linen
from mixjax.models.resnet import BasicBlock, ResNet
from mixjax.report import sections
from mixjax.train import workdir

BATCH, CHUNK, ROUNDS, CLASSES = 32, 16, 11, 10
PAGE = Path(__file__).parent.parent / 'docs' / 'speed.md'


class Way(NamedTuple):
    """A way to get the scores of a layer for a batch. flops: of all it runs."""

    call: Callable[[], np.ndarray]
    flops: float


def network() -> tuple[Net, int, str]:
    """What is measured here, the side of its images, and what it is called."""
    if jax.default_backend() == 'cpu':
        small = from_linen(ResNet(BasicBlock, (2, 2, 2, 2), width=16, stem=Stem))
        return small, 32, 'a ResNet-18 of width 16 on images of 32 pixels'
    return models.build('resnet50', dtype='bfloat16'), 224, 'ResNet-50 in bfloat16 on images of 224 pixels'


def flops(compiled: Any) -> float:
    return compiled.cost_analysis()['flops']


def whole(function: Callable, given: Any, parts: list[np.ndarray]) -> Way:
    """The whole network again for each chunk of channels."""
    program = jax.jit(function).lower(given, parts[0]).compile()
    return Way(lambda: np.concatenate([program(given, part) for part in parts]), flops(program) * len(parts))


def cut(function: Callable, given: Any, parts: list[np.ndarray]) -> Way:
    """As `attention.channel_scores` does it: what is in front of the layer once, what is behind it for each chunk."""
    one, other = map(jax.jit, halves.split(function, given, parts[0]))
    first = one.lower(given).compile()
    rest = other.lower(first(given), parts[0]).compile()

    def call() -> np.ndarray:
        once = first(given)
        return np.concatenate([rest(once, part) for part in parts])

    return Way(call, flops(first) + flops(rest) * len(parts))


def measured() -> Table:
    net, side, told = network()
    random = np.random.default_rng(0)
    image = jnp.asarray(random.standard_normal((BATCH, side, side, 3)), jnp.float32)
    label = jnp.asarray(random.integers(0, CLASSES, BATCH))
    variables = jax.jit(lambda key: net.init(key, image[:1], {'target': CLASSES}))(jax.random.key(0))
    given = variables, image, label
    forward = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].logits).lower(variables, image).compile()
    maps = jax.eval_shape(partial(net.apply, train=False), variables, image)[0].maps
    rows, total = [], {'whole': np.zeros(ROUNDS), 'cut': np.zeros(ROUNDS)}
    for layer in attention.conv_layers(maps):
        width = maps[layer].shape[-1]
        parts = np.split(~np.eye(width, dtype=bool), width // CHUNK)
        function = attention.rises(net, layer, 'target')
        ways = {'whole': whole(function, given, parts), 'cut': cut(function, given, parts)}
        np.testing.assert_allclose(ways['cut'].call(), ways['whole'].call(), rtol=0, atol=1e-6)
        found = timing.interleaved({name: way.call for name, way in ways.items()}, ROUNDS)
        total = {name: total[name] + found[name] for name in total}
        work = [f'{way.flops / flops(forward):.1f}' for way in ways.values()]
        rows.append([f'`{layer}`', str(width), str(width + 1), *line(work, found)])
    rows.append(['all', '', '', *line(['', ''], total)])
    columns = ['layer', 'channels', 'one by one', 'whole network', 'ms', 'layer on', 'ms', 'time, ratio']
    about = (
        f'{told}, batches of {BATCH}, {CHUNK} channels at a time. Forward passes by the definition (one by one); with '
        'the whole network for each chunk; with what is behind the layer for each, as it is done. Times of a batch.'
    )
    return Table("DELTA's channels", about, columns, rows)


def line(work: list[str], found: dict[str, np.ndarray]) -> list[str]:
    first, second = (ms(timing.spread(found[name])) for name in ('whole', 'cut'))
    return [work[0], first, work[1], second, times(timing.ratio(found['cut'], found['whole']))]


def main() -> None:
    text = table(measured()._asdict())
    device = f'{jax.devices()[0].device_kind}; jax {jax.__version__}; commit {workdir.commit() or "none"}.'
    title, _, rest = text.partition('\n')
    page = f'## {title.lstrip("# ")}\n\n    python -m benchmarks.channels\n\n{device}\n{rest}\n'
    sections.write(PAGE, 'channels', page)
    print(page)


if __name__ == '__main__':
    main()
