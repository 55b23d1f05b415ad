"""The results of a run, `results.json`, from the evaluations in `metrics.jsonl`; and the description of its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixjax.config import method_registry
from mixjax.data.labelled import split_file
from mixjax.host.processes import by_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.train import evaluation, prepare
from mixjax.train.program import Program
from mixjax.train.seeds import seeds_of


@by_first
def summary(built: Program, folder: Place, label: str) -> dict[str, Any]:
    """Return the contents of `results.json`: the evaluations of the steps that are kept."""
    config, seeds = built.config, seeds_of(built.config)
    steps = evaluation.kept(config, folder, seeds)
    final, val = (
        {
            line['seed']: line
            for line in files.lines(folder / 'metrics.jsonl')
            if line['kind'] == kind and line['step'] == steps.get(line['seed'])
        }
        for kind in ('eval', 'val')
    )
    drawn = built.draw(config.seed).rows
    test = len(built.sets.test.labels) if built.sets.test else len(built.sets.train.labels) - len(drawn.known)
    more = [name for name in ('top5', 'mean_per_class') if name in final[seeds[0]]]
    return {
        'kind': 'run',
        'label': label,
        'method': method_registry.title(config.method),
        'steps': config.steps,
        'classes': list(built.sets.train.classes),
        'train_examples': len(drawn.train),
        'val_examples': evaluation.val_count(built, config.seed),
        'test_examples': test,
        'keep': config.keep,
        'seeds': [
            {
                'seed': seed,
                'step': steps[seed],
                'accuracy': final[seed]['accuracy'],
                'loss': final[seed]['loss'],
                **{name: final[seed][name] for name in more},
                **({'val_accuracy': val[seed]['accuracy']} if seed in val else {}),
                'prepared': dict(prepare.load_prepared(folder / f'prepared-{seed}.npz').notes),
            }
            for seed in seeds
        ],
        'accuracy': spread([final[seed]['accuracy'] for seed in seeds]),
        **{name: spread([final[seed][name] for seed in seeds]) for name in more},
    }


def sentence(found: dict[str, Any]) -> str:
    """Return the accuracy of a run's results as text: `81.48 +- 1.20 % correct (n=3)`."""
    accuracy = found['accuracy']
    std = '' if accuracy['std'] is None else f' +- {100 * accuracy["std"]:.2f}'
    return f'{100 * accuracy["mean"]:.2f}{std} % correct (n={accuracy["n"]})'


@by_first
def describe_data(built: Program, folder: Place) -> None:
    """Write `splits.json`, and `data.json` if there are notes on the data."""
    sets = built.sets
    drawn = {seed: built.draw(seed).rows for seed in seeds_of(built.config)}
    held = split_file.contents(built.config.target.name, sets.whole, sets.train, sets.rows, dict(sets.stamps), drawn)
    files.write_json(folder / 'splits.json', held)
    if sets.notes:
        notes = {'notes': list(sets.notes), 'unreadable': dict(sets.unreadable)}
        files.write_json(folder / 'data.json', notes)


def spread(values: list[float]) -> dict[str, Any]:
    """Return the mean, sample standard deviation (n - 1; None for one value) and n."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'n': len(values)}


def differences(runs: dict[str, dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Return the accuracy minus the baseline's, paired over seeds: mean, standard error and n."""
    base = [seed['accuracy'] for seed in runs[baseline]['seeds']]
    out = {}
    for label, results in runs.items():
        if label != baseline:
            over = spread([seed['accuracy'] - b for seed, b in zip(results['seeds'], base, strict=True)])
            stderr = None if over['std'] is None else over['std'] / over['n'] ** 0.5
            out[label] = {'mean': over['mean'], 'stderr': stderr, 'n': over['n']}
    return out
