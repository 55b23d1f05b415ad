"""Finished work directories with made-up numbers and pictures, in the form that training leaves them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 400
METHODS = {'finetune': 0.859, 'lamix': 0.891, 'mixup': 0.893, 'smile': 0.888, 'xmixup': 0.901}
CLASSES = tuple(str(digit) for digit in range(10))
SOURCES = ('o', 'I', 'Z', 'ze', 'ch', 'S', 'be', 'gamma', 'beta', 'rho')


def picture(seed: int, side: int, channels: int) -> np.ndarray:
    """(side, side, channels) uint8: a ring and a stroke, placed by the seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    cy, cx, radius, slope = rng.uniform([0.35, 0.35, 0.15, -1.5], [0.65, 0.65, 0.3, 1.5])
    ring = np.exp(-(((np.hypot(y - cy, x - cx) - radius) / 0.06) ** 2))
    stroke = np.exp(-(((y - 0.5 - slope * (x - 0.5)) / 0.07) ** 2)) * (np.abs(x - 0.5) < 0.3)
    light = np.clip(ring + stroke, 0, 1)[..., None] * (rng.uniform(0.5, 1, 3) if channels == 3 else np.ones(1))
    return np.rint(255 * light).astype(np.uint8)


def pictures(first: int, shape: tuple[int, ...], side: int, channels: int) -> np.ndarray:
    """(*shape, side, side, channels) uint8."""
    images = [picture(first + index, side, channels) for index in range(math.prod(shape))]
    return np.reshape(images, (*shape, side, side, channels))


def spread(values: list[float]) -> dict[str, Any]:
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'n': len(values)}


def run_results(label: str, accuracies: list[float], classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    return {
        'kind': 'run',
        'label': label,
        'method': label,
        'steps': STEPS,
        'classes': list(classes),
        'test_examples': 1767,
        'train_examples': 3 * len(classes),
        'seeds': [{'seed': seed, 'accuracy': value, 'loss': 0.4} for seed, value in enumerate(accuracies)],
        'accuracy': spread(accuracies),
    }


def comparison_results(runs: dict[str, list[float]], classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    baseline = next(iter(runs))
    differences = {}
    for label, values in runs.items():
        if label != baseline:
            gap = spread([value - base for value, base in zip(values, runs[baseline], strict=True)])
            stderr = None if gap['std'] is None else gap['std'] / gap['n'] ** 0.5
            differences[label] = {'mean': gap['mean'], 'stderr': stderr, 'n': gap['n']}
    results = {label: run_results(label, values, classes) for label, values in runs.items()}
    return {'kind': 'comparison', 'baseline': baseline, 'runs': results, 'differences': differences}


def config(label: str | None, labels: tuple[str, ...], seeds: int, side: int) -> dict[str, Any]:
    return {
        'batch_size': 48,
        'compare': {} if label else {name: {'name': name, 'alpha': 0.2} for name in labels},
        'image': {'crop': side, 'flip': False, 'mean': [0.5], 'pad': 2, 'std': [0.5]},
        'method': {'name': label or 'finetune', **({'alpha': 0.2, 'joint': True} if label else {})},
        'model': {'dtype': 'float32', 'name': 'glyphnet', 'weights': 'embedded://glyphnet'},
        'num_seeds': seeds,
        'optim': {'lr': 0.01, 'momentum': 0.9, 'schedule': 'step', 'weight_decay': 0.0001},
        'seed': 0,
        'source': {'name': 'glyphs'},
        'steps': STEPS,
        'target': {'name': 'digits', 'per_class': 3, 'rate': 1.0},
    }


def environment() -> dict[str, Any]:
    return {
        'commit': '0123456789ab',
        'command': 'mixjax train --config=configs/quickstart.py --workdir=runs/quickstart',
        'devices': ['cpu', 'cpu'],
        'jax': '0.10.2',
        'mixjax': '0.1.0',
        'python': '3.11.2',
    }


def dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + '\n')


def metric_lines(accuracies: list[float], floor: float) -> list[dict[str, Any]]:
    """Falling losses and rising accuracies that end at the results."""
    lines = []
    for seed, accuracy in enumerate(accuracies):
        rng = np.random.default_rng(seed)
        for step in range(20, STEPS + 1, 20):
            loss = floor + 2.2 * math.exp(-step / 60) + rng.normal(0, 0.03)
            lines.append({'seed': seed, 'step': step, 'kind': 'train', 'loss': loss, 'grad_norm': 1.0})
            if step % 100 == 0:
                shown = accuracy - 0.5 * math.exp(-step / 70) * (step < STEPS)
                lines.append({'seed': seed, 'step': step, 'kind': 'eval', 'accuracy': shown, 'loss': 0.4})
    return lines


def make_run(
    folder: Path, label: str, accuracies: list[float], *, side: int = 16, channels: int = 1,
    pairs: bool = False, mixed: bool = True, classes: tuple[str, ...] = CLASSES, sources: tuple[str, ...] = SOURCES,
) -> Path:  # fmt: skip
    """A run folder. pairs: with source images, two for the first class; mixed: the network saw blends."""
    folder.mkdir(parents=True)
    dump(folder / 'results.json', run_results(label, accuracies, classes))
    dump(folder / 'config.json', config(label, (), len(accuracies), side))
    dump(folder / 'env.json', environment())
    lines = metric_lines(accuracies, 0.6 if mixed else 0.02)
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    image = pictures(0, (8,), side, channels)
    arrays = {'image': image, 'partner': image[::-1], 'label': np.arange(8) % len(classes)}
    if pairs:
        arrays['source'] = pictures(100, (8,), side, channels)
        table = [
            {'target': name, 'sources': [sources[i % len(sources)]], 'similarity': [0.9 - 0.02 * (i % 20)]}
            for i, name in enumerate(classes)
        ]
        table[0]['sources'], table[0]['similarity'] = [sources[0], sources[1]], [0.93, 0.81]
        dump(folder / 'pairs.json', {'seed': 0, 'pairs': table})
        target = pictures(200, (len(classes),), side, channels)
        source = pictures(300, (len(classes), 2), side, channels)
        np.savez(folder / 'pairs.npz', target=target, source=source)
    other = arrays.get('source', arrays['partner'])
    arrays['seen'] = np.rint(0.6 * image + 0.4 * other).astype(np.uint8) if mixed else image
    np.savez(folder / 'samples.npz', **arrays)
    return folder


def make_grid(root: Path, accuracies: dict[str, list[float]], **rest: Any) -> Path:
    """A folder of runs, `DATA METHOD RATE` by their accuracies; such a folder is named DATA-METHOD-RATE."""
    for cell, values in accuracies.items():
        data, method, rate = cell.split()
        run = make_run(root / cell.replace(' ', '-'), method, values, side=4, **rest)
        change(run, 'config.json', target={'name': data, 'per_class': 0, 'rate': float(rate)})
    return root


def change(run: Path, name: str, **values: Any) -> None:
    """Set keys of a JSON file."""
    dump(run / name, {**json.loads((run / name).read_text()), **values})


def predict(run: Path, shown: int = 12) -> None:
    """Put `predictions.npz` into a run folder: of each seed the last examples are taken for the next class.

    It is less and less sure of each example. The accuracies of results.json become those of whole examples.
    """
    results = json.loads((run / 'results.json').read_text())
    n, classes = results['test_examples'], len(results['classes'])
    label = np.arange(n) % classes
    predicted = np.tile(label, (len(results['seeds']), 1))
    probability = np.tile(np.linspace(1, 0.5, n, dtype=np.float32), (len(results['seeds']), 1))
    for row, one in zip(predicted, results['seeds'], strict=True):
        right = round(one['accuracy'] * n)
        row[right:] = (label[right:] + 1) % classes
        one['accuracy'] = right / n
    results['accuracy'] = spread([one['accuracy'] for one in results['seeds']])
    dump(run / 'results.json', results)
    wrong = np.flatnonzero(predicted[0] != label)[:shown]
    side, channels = np.load(run / 'samples.npz')['image'].shape[2:]
    seeds = np.array([one['seed'] for one in results['seeds']])
    np.savez(
        run / 'predictions.npz', seed=seeds, step=np.full(len(seeds), STEPS), predicted=predicted.astype(np.uint8),
        probability=probability, label=label.astype(np.uint8), shown=wrong,
        image=pictures(500, (len(wrong),), side, channels),
    )  # fmt: skip


def predict_all(folder: Path) -> Path:
    """The same for each run of a comparison."""
    results = json.loads((folder / 'results.json').read_text())
    for label in results['runs']:
        predict(folder / label)
    runs = {label: json.loads((folder / label / 'results.json').read_text()) for label in results['runs']}
    accuracies = {label: [one['accuracy'] for one in run['seeds']] for label, run in runs.items()}
    classes = tuple(next(iter(runs.values()))['classes'])
    dump(folder / 'results.json', comparison_results(accuracies, classes))
    return folder


def make_comparison(
    folder: Path, methods: dict[str, float] | None = None, *, seeds: int = 3, classes: tuple[str, ...] = CLASSES,
    side: int = 16, channels: int = 1, **rest: Any,
) -> Path:  # fmt: skip
    """A comparison folder; the first label is the baseline, and what draws source images is called x..."""
    methods = methods or METHODS
    runs = {}
    for place, (label, mean) in enumerate(methods.items()):
        rng = np.random.default_rng(place)
        runs[label] = [round(mean + 0.004 * (seed - 1) + rng.normal(0, 0.004), 4) for seed in range(seeds)]
    folder.mkdir(parents=True)
    dump(folder / 'results.json', comparison_results(runs, classes))
    dump(folder / 'config.json', config(None, tuple(methods), seeds, side))
    dump(folder / 'env.json', environment())
    for place, (label, values) in enumerate(runs.items()):
        make_run(
            folder / label, label, values, side=side, channels=channels, classes=classes,
            pairs=label.startswith('x'), mixed=place > 0, **rest,
        )  # fmt: skip
    return folder
