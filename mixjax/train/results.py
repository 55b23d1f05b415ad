"""What a run found: `results.json`, from the evaluations in `metrics.jsonl`; and the data it found it on."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixjax.config import method_registry
from mixjax.data.labelled import run_data, split_file
from mixjax.data.labelled.run_data import Sets
from mixjax.host.processes import by_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.train import evaluation, prepare
from mixjax.train.program import Program


@by_first
def summary(config: Any, folder: Place, label: str, built: Program, seeds: list[int]) -> dict[str, Any]:
    """What `results.json` holds: the evaluations of the steps that are kept."""
    steps = evaluation.kept(config, folder, seeds)
    final, val = (
        {
            line['seed']: line
            for line in files.lines(folder / 'metrics.jsonl')
            if line['kind'] == kind and line['step'] == steps.get(line['seed'])
        }
        for kind in ('eval', 'val')
    )
    drawn = run_data.drawn(config, built.sets, config.seed)
    test = len(built.sets.test.labels) if built.sets.test else len(built.sets.train.labels) - len(drawn.known)
    more = [name for name in ('top5', 'mean_per_class') if name in final[seeds[0]]]
    return {
        'kind': 'run',
        'label': label,
        'method': method_registry.title(config.method),
        'steps': config.steps,
        'classes': list(built.sets.train.classes),
        'train_examples': len(drawn.train),
        'val_examples': evaluation.count(built, config.seed),
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


@by_first
def describe_data(config: Any, sets: Sets, folder: Place, seeds: list[int]) -> None:
    """`splits.json`, and `data.json` where there is something to tell of the data."""
    drawn = {seed: run_data.drawn(config, sets, seed) for seed in seeds}
    held = split_file.contents(config.target.name, sets.whole, sets.train, sets.rows, dict(sets.stamps), drawn)
    files.write_json(folder / 'splits.json', held)
    if sets.notes:
        told = {'notes': list(sets.notes), 'unreadable': dict(sets.unreadable)}
        files.write_json(folder / 'data.json', told)


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (n - 1; None for one value) and n."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'n': len(values)}


def differences(runs: dict[str, dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Accuracy minus the baseline's, paired over seeds: mean, standard error and n."""
    base = [seed['accuracy'] for seed in runs[baseline]['seeds']]
    out = {}
    for label, results in runs.items():
        if label != baseline:
            over = spread([seed['accuracy'] - b for seed, b in zip(results['seeds'], base, strict=True)])
            stderr = None if over['std'] is None else over['std'] / over['n'] ** 0.5
            out[label] = {'mean': over['mean'], 'stderr': stderr, 'n': over['n']}
    return out
