"""The cost of images: decoding them, caching them, and feeding them to a training step.

    python -m benchmarks.feed

Writes the section "feed" of docs/benchmark.md; with `--short` it only prints, from a few rounds on a small network.
The pictures are made here: noise with the falling spectrum of photographs, with edges, as JPEG of the average size of
a photograph of ImageNet. All ways are measured in turn, round by round, so that other work on the machine disturbs all
alike: the best round counts for rates, the median for ratios. It takes ten minutes on two CPU cores.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from PIL import Image

from benchmarks import steps, timing
from mixjax import config as config_lib
from mixjax.data.dataset import Dataset
from mixjax.data.feed import batches
from mixjax.data.pixels import decoded_cache, photo
from mixjax.report import sections
from mixjax.rundir import files
from mixjax.train import program, seed_batch, seeds, step
from mixjax.train.shared import shared_setup

ROUNDS = 12
SECONDS = 0.25  # of one way in one round
STEPS = 4  # in a row of one way in one round
PAUSE = 0.2  # seconds: what a stream reads ahead at the end of its turn is not charged to the next one
RULE = photo.Rule(256)
PHOTOGRAPH = (375, 500, 110_000)
BATCH = 48  # of the papers
PAGE = Path(__file__).parent.parent / 'docs' / 'benchmark.md'


def scene(height: int, width: int, size: int, quality: int = 90) -> bytes:
    """Make a JPEG of about `size` bytes."""
    random = np.random.default_rng(0)
    noise = np.fft.rfft2(random.standard_normal((3, height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    data = b''
    for slope in np.arange(0.8, 2.2, 0.05):
        image = np.fft.irfft2(noise / frequency**slope, (height, width))
        image = (image - image.mean()) / image.std() * 50 + 128
        image[:, height // 3 : height // 2, width // 4 : width // 2] += 60
        file = io.BytesIO()
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)).save(file, 'JPEG', quality=quality)
        data = file.getvalue()
        if len(data) <= size:
            break
    return data


def by_pillow(data: bytes) -> np.ndarray:
    """Return the reference: torchvision's Resize(256) and CenterCrop(256) of a Pillow image."""
    image = Image.open(io.BytesIO(data)).convert('RGB')
    width, height = image.size
    short = min(width, height)
    wide, high = (256 if edge == short else int(256 * edge / short) for edge in (width, height))
    left, top = (int(round((edge - 256) / 2)) for edge in (wide, high))
    image = image if image.size == (wide, high) else image.resize((wide, high), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + 256, top + 256)))


def rates(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the calls per second of processor time."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, call in ways.items():
            calls, start = 0, time.process_time()
            while (spent := time.process_time() - start) < SECONDS:
                call()
                calls += 1
            best[name] = max(best[name], calls / spent)
    return best


def decoding(rounds: int) -> list[str]:
    """Return a Markdown table of a core's decoding rates, by the size of the photograph."""
    lines = [
        '| photograph | kB | Pillow | decode | decode and square | to Pillow |',
        '| --- | --: | --: | --: | --: | --: |',
    ]
    for height, width, size in ((375, 500, 86_000), (375, 500, 110_000), (683, 1024, 324_000), (256, 256, 53_000)):
        data = scene(height, width, size)
        assert np.abs(photo.read(data, RULE).astype(int) - by_pillow(data)).max() <= 1
        found = rates(
            {
                'pillow': lambda data=data: by_pillow(data),
                'decode': lambda data=data: photo.decode(data),
                'read': lambda data=data: photo.read(data, RULE),
            },
            rounds,
        )
        lines.append(
            f'| {width} x {height} | {len(data) / 1000:.0f} | {found["pillow"]:.0f} | {found["decode"]:.0f} | '
            f'{found["read"]:.0f} | {found["read"] / found["pillow"]:.2f} x |'
        )
    return lines


# --- decoded images on disk -------------------------------------------------------------------------------------------


class Photographs:
    """A reader of so many photographs, which are all the same one."""

    rule = RULE

    def __init__(self) -> None:
        self._data = scene(*PHOTOGRAPH)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([photo.read(self._data, RULE) for _ in rows])


def photographs(count: int) -> Dataset:
    return Dataset('benchmark', ('a',), np.zeros(count, np.int32), Photographs())


def keeping(rounds: int, count: int) -> list[str]:
    """Return a Markdown table of the rates of the files of decoded images."""
    data, processors = photographs(count), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        one, every = 0.0, 0.0
        for k in range(max(rounds // 4, 1)):
            for cores in (1, processors):
                kept = decoded_cache.stored(data, f'train{k}', Path(folder, str(cores)))
                with mock.patch.object(decoded_cache.os, 'cpu_count', return_value=cores):
                    start = time.perf_counter()
                    decoded_cache.ensure(kept.read, np.arange(count))
                    rate = count / (time.perf_counter() - start)
                one, every = (max(one, rate), every) if cores == 1 else (one, max(every, rate))
        order = np.random.default_rng(0).permutation(count)[:BATCH]
        anew = functools.partial(decoded_cache.stored, data, 'train0', Path(folder, '1'))
        kept = anew()
        found = rates({'read': lambda: kept.read(order), 'first': lambda: anew().read(order)}, rounds)
    return [
        '| decoded images | images/s |',
        '| --- | --: |',
        f'| decoded, made square and kept, one thread | {one:.0f} |',
        f'| the same, {processors} threads for {processors} processors | {every:.0f} |',
        f'| read for the first time by a process, sums compared, one core | {BATCH * found["first"]:.0f} |',
        f'| read again, one core | {BATCH * found["read"]:.0f} |',
    ]


# --- in front of a training step --------------------------------------------------------------------------------------


def settings(short: bool) -> Any:
    """Return the config of plain training of PreActResNet-18 on made-up CIFAR images, by configs/lamix_cifar100.py."""
    config = config_lib.base()
    config.model.name = 'lenet' if short else 'preactresnet18'
    config.target.name = 'cifar10'
    config.synthetic.per_class, config.synthetic.side = 500, 32
    config.image.resize = config.image.crop = 32
    config.image.pad = 4
    config.image.interpolation = 'bilinear'
    config.image.mean = config.image.std = (0.5, 0.5, 0.5)
    config.batch_size, config.devices = 128, 1
    return config_lib.settle(config_lib.complete(config))


def in_memory(dataset: Dataset) -> Dataset:
    """Return the data set with its images read once: otherwise making them up would be measured."""
    pixels = dataset.read(np.arange(len(dataset.labels)))
    return dataset._replace(read=lambda rows: pixels[rows])


def stepping(rounds: int, short: bool) -> list[str]:
    """Return a Markdown table of a step's time with each feed, and of the same step on a resident batch."""
    ground = shared_setup(settings(short))
    assert ground.sets.test is not None
    ground = ground._replace(
        sets=ground.sets._replace(train=in_memory(ground.sets.train), test=in_memory(ground.sets.test))
    )
    calls: dict[str, Callable[[], object]] = {}
    closing = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ('fixed', 'resident', 'stream'):
            config = settings(short)
            with config.unlocked():
                config.feed = 'stream' if name == 'stream' else 'resident'
            built = program.build(config, ground)
            opened = seeds.open_seed(built, 0, Path(folder))
            placed, ts = seed_batch.place_seeds(built, [opened]), seed_batch.stack_states(built, [opened.state])
            closing.append(placed)
            given = None
            if name == 'fixed':
                made = jax.jit(built.feed)(
                    jax.tree.map(lambda x: x[0], placed.inputs), step.keys(opened.state.key).data, 0
                )
                given = jax.tree.map(lambda x: x[None], made)
                with mock.patch.object(batches, 'batch', lambda *args, **kwargs: lambda inputs, key, step: inputs):
                    built = program.build(config, ground)
            asked = placed.feed.inputs if given is None else lambda step, count, given=given: given
            calls[name] = steps.stepper(built, placed.frozen, ts, asked)
    times = timing.interleaved(calls, rounds, STEPS, PAUSE)
    for placed in closing:
        placed.close()
    lines = ['| images of a step | ms/step | to a batch that is there |', '| --- | --: | --: |']
    titles = {'fixed': 'a batch that is there', 'resident': 'resident', 'stream': 'streamed from the host'}
    for name, title in titles.items():
        ratio = timing.ratio(times[name], times['fixed']).median
        lines.append(f'| {title} | {1000 * np.median(times[name]):.1f} | {ratio:.3f} x |')
    return lines


def main() -> None:
    short = '--short' in sys.argv[1:]
    rounds = 2 if short else ROUNDS
    parts = [decoding(rounds), keeping(rounds, 96 if short else 1024), stepping(6 if short else 15, short)]
    tables = '\n\n'.join('\n'.join(lines) for lines in parts)
    device = jax.devices()[0].device_kind
    text = f"""## Feed

    python -m benchmarks.feed

What images cost ({device}, {os.cpu_count()} processors, commit {files.commit() or 'none'}). Images a second of one
core's time; "square" is the short side at 256 and the square in its middle, as Pillow does it:

{tables}

The steps are of PreActResNet-18 in float32 on 32x32 images, batch 128, a call of the program for each.
"""
    if short:
        print(text)
    else:
        sections.write(PAGE, 'feed', text)
        print(text)


if __name__ == '__main__':
    main()
