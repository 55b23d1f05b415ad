"""Measures of a finished run: from its networks to numbers, and to arrays for pictures.

A measure takes a `Run` and an `Asked`, and returns a `Found`. Measures that make pictures are in `pictures.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.analysis import interpolation as il
from mixjax.analysis import opened, probe, spectrum
from mixjax.analysis.opened import Network, Run
from mixjax.data.feed.batches import Images
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report.curves import by_batch_kind, of_lines
from mixjax.rundir import files
from mixjax.train import prepare
from mixjax.train import seeds as seeds_lib
from mixjax.train.contract import RESERVED
from mixjax.train.results import spread

PARTS = ('train', 'test')


class Asked(NamedTuple):
    """Settings of the `analyse` command.

    Attributes:
      seeds: largest number of seeds; 0 for all.
      images: largest number of images of a part; 0 for all.
      of: output of the interpolation loss that is shown first.
      scale: scale of the interpolation loss that is shown first.
      lams: number of values of lam.
      part: part whose features the spectrum is computed from.
      tail: number of the smallest singular values to show.
      classes: names of classes; () for all, or for the first few.
      auxiliary: folder of the run whose choice of source images is probed; '' for the measured run itself.
      per_class: largest number of source images of a class; 0 for all.
      probe_steps: number of training steps of the probe.
      over: setting or note that a sweep is over; '' finds it.
    """

    seeds: int = 0
    images: int = 1000
    of: str = 'probabilities'
    scale: str = 'raw'
    lams: int = 10
    part: str = 'test'
    tail: int = 10
    classes: tuple[str, ...] = ()
    auxiliary: str = ''
    per_class: int = 50
    probe_steps: int = 1000
    over: str = ''


class Found(NamedTuple):
    """Result of a measure.

    Attributes:
      numbers: the entry in `analysis.json`, with n and settings.
      arrays: the arrays of the .npz file.
      notes: messages to show.
    """

    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray] = {}
    notes: list[str] = []


def about(networks: list[Network], **settings: Any) -> dict[str, Any]:
    """Return n and settings, which every measure stores."""
    return {'n': len(networks), 'settings': {'seeds': [one.seed for one in networks], **settings}}


def interpolation(run: Run, asked: Asked) -> Found:
    """Return label-IL and feature-IL on labelled and test images: means over pairs and lam, spread over seeds."""
    networks, notes = opened.networks(run, asked.seeds)
    lams = il.midpoints(asked.lams)
    found: dict[str, dict[str, list[np.ndarray]]] = {part: {} for part in PARTS}
    counts = {}
    for network in networks:
        forward = run.forward(network)
        for part in PARTS:
            examples = run.examples(network.seed, part, asked.images)
            if len(examples.label) < 2:
                raise UserError(f'{run.folder}: pairs need two images, and the {part} part has {len(examples.label)}')
            counts[part] = len(examples.label)
            curves = il.curve(forward, run.test_inputs(examples.image), il.partners(len(examples.label)), lams)
            for name, values in curves.items():
                found[part].setdefault(name, []).append(values)
    shown = {'label': f'{asked.of} {asked.scale}', 'feature': f'features {asked.scale}'}
    numbers = {
        f'{what}_{part}': spread([float(values.mean()) for values in found[part][name]])
        for what, name in shown.items()
        for part in PARTS
    }
    variants = {
        part: {name: spread([float(v.mean()) for v in each]) for name, each in found[part].items()} for part in PARTS
    }
    settings = about(networks, of=asked.of, scale=asked.scale, lams=asked.lams, pairs=counts)
    arrays = {f'{what}_{part}': np.stack(found[part][name]) for what, name in shown.items() for part in PARTS}
    arrays |= {f'{name} {part}': np.stack(each) for part in PARTS for name, each in found[part].items()}
    return Found({**numbers, 'variants': variants, **settings}, {'lam': lams, **arrays}, notes)


def singular_values(run: Run, asked: Asked) -> Found:
    """Return the smallest singular values of the features of one part, divided by the largest: means over seeds."""
    networks, notes = opened.networks(run, asked.seeds)
    every = []
    for network in networks:
        examples = run.examples(network.seed, asked.part, asked.images)
        every.append(spectrum.singular_values(run.features(network, examples)))
    least = min(map(len, every))
    values = np.stack([one[:least] for one in every])
    tails = np.stack([spectrum.tail(one, min(asked.tail, least)) for one in every])
    each = [spread(column.tolist()) for column in tails.T]
    numbers = {
        'values': [one['mean'] for one in each],
        'std': [one['std'] for one in each],
        'smallest': each[0],
        **about(networks, part=asked.part, images=len(examples.label), of=least),
    }
    return Found(numbers, {'values': values, 'tail': tails}, notes)


# --- the forgetting probe ---------------------------------------------------------------------------------------------


def forgetting(run: Run, asked: Asked) -> Found:
    """Return the accuracy of new classifiers on the frozen trunk, for the three subsets of the source images."""
    networks, notes = opened.networks(run, asked.seeds)
    folder = storage.reachable(asked.auxiliary) if asked.auxiliary else run.folder
    parts = opened.source(run, folder)
    labels = parts.train.labels
    each: dict[str, list[float]] = {}  # {subset: accuracy of each seed}, NaN where it was left out
    sizes: dict[str, list[int]] = {}
    for network in networks:
        chosen = auxiliary_rows(folder, network.seed, len(labels))
        for number, (name, rows) in enumerate(probe.subsets(chosen, len(labels)).items()):
            if len(np.unique(labels[rows])) < 2:
                notes.append(f'seed {network.seed}: {name} is left out, it has images of fewer than two classes')
                each.setdefault(name, []).append(np.nan)
                continue
            train, test = _probed(parts, rows, asked.per_class)
            known = np.unique(labels[rows])
            given = [run.features(network, part) for part in (train, test)]
            classes = [np.searchsorted(known, part.label) for part in (train, test)]
            key = jax.random.fold_in(jax.random.key(network.seed), number)
            made = probe.fit(key, given[0], classes[0], len(known), steps=asked.probe_steps)
            each.setdefault(name, []).append(probe.accuracy(made, given[1], classes[1]))
            sizes[name] = [len(train.label), len(test.label), len(known)]
    if not sizes:
        raise UserError(f'{run.folder}: no subset of the source images has two classes: nothing to probe')
    kind = 'its test part' if parts.test is not None else 'a fifth of each class, held out'
    numbers = {name: spread([one for one in each[name] if not np.isnan(one)]) for name in sizes}
    images = {name: dict(zip(('train', 'test', 'classes'), size, strict=True)) for name, size in sizes.items()}
    settings = {'per_class': asked.per_class, 'steps': asked.probe_steps, 'tested on': kind, 'images': images}
    return Found({**numbers, **about(networks, **settings)}, {name: np.array(each[name]) for name in sizes}, notes)


def auxiliary_rows(folder: Place, seed: int, count: int) -> np.ndarray:
    """Return the rows of the source images that a run's method chose.

    Where the run is one of a comparison and chose none, a sibling's choice is taken.

    Args:
      folder: the folder of the run.
      seed: the seed that chose.
      count: number of source images; a choice with larger rows is of another data set.
    """
    own = folder / f'prepared-{seed}.npz'
    siblings = sorted(folder.parent.glob(f'*/prepared-{seed}.npz')) if (folder.parent / 'config.json').exists() else []
    for path in [own, *siblings]:
        draw = prepare.load_prepared(path).draw if path.exists() else None
        if draw is not None and (draw.rows.size == 0 or draw.rows.max() < count):
            return np.unique(draw.rows)
    raise UserError(
        f'{folder} chose no source images for seed {seed}, and neither did a run beside it; name a run that did with '
        '--auxiliary=RUN, such as one of xmixup'
    )


def _probed(parts: Any, rows: np.ndarray, per_class: int) -> tuple[Images, Images]:
    """Return (train, test) images for a probe on some rows of the source's train part."""
    labels = parts.train.labels
    if parts.test is None:
        train, test = probe.held_out(labels, probe.sample(labels, rows, per_class))
        return seeds_lib.subset(parts.train, train), seeds_lib.subset(parts.train, test)
    of_classes = np.flatnonzero(np.isin(parts.test.labels, labels[rows]))
    test = probe.sample(parts.test.labels, of_classes, per_class)
    return seeds_lib.subset(parts.train, probe.sample(labels, rows, per_class)), seeds_lib.subset(parts.test, test)


# --- curves from the log ----------------------------------------------------------------------------------------------


def curves(run: Run, asked: Asked) -> Found:
    """Return training loss and test accuracy over the steps: the last values, and the step with the best mean.

    For a method that alternates between kinds of batch, the loss is the mean over the kinds; the loss of each kind is
    returned too, and so are the metrics that the method logs itself.
    """
    del asked
    lines = tuple(files.read_lines(run.folder / 'metrics.jsonl'))
    numbers, arrays, n = {}, {}, 0
    for name, kind, metric in (('loss', 'train', 'loss'), ('accuracy', 'eval', 'accuracy')):
        found = of_lines(lines, kind, metric)
        if not found:
            raise UserError(f'{run.folder}: metrics.jsonl has no {metric} of the kind {kind!r}')
        steps, values = np.array(list(found)), np.array(list(found.values()))
        arrays |= {f'{name}_step': steps, name: values.T}
        numbers[name] = spread(values[-1].tolist())
        n = values.shape[1]
        if name == 'accuracy':
            best = int(np.argmax(values.mean(1)))
            fall = float(values.mean(1)[best] - values.mean(1)[-1])
            numbers['best'] = {'step': int(steps[best]), 'mean': float(values.mean(1)[best]), 'fall': fall}
    # Metrics that the method logs itself, and its loss by kind of batch; none may replace one of the arrays above.
    logged = dict.fromkeys(name for line in lines if line['kind'] == 'train' for name in line)
    for name in ('loss', *(name for name in logged if name not in RESERVED)):
        for batch_kind, curve in by_batch_kind(lines, 'train', name).items():
            key = f'{name} {batch_kind}'.rstrip()
            if key not in arrays:
                arrays |= {f'{key}_step': np.array(list(curve)), key: np.array(list(curve.values())).T}
            if name == 'loss' and batch_kind:
                numbers.setdefault('batch_kinds', {})[batch_kind] = spread(list(curve.values())[-1])
    settings = {'seeds': run.every[:n], 'steps': run.config.steps, 'last step': int(arrays['accuracy_step'][-1])}
    return Found({**numbers, 'n': n, 'settings': settings}, arrays)
