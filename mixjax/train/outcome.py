"""What a run found: `results.json`, from the last evaluations in `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mixjax.train import program, workdir
from mixjax.train.program import Program


def summary(config: Any, folder: Path, label: str, built: Program, seeds: list[int]) -> dict[str, Any]:
    """What `results.json` holds: from the last evaluations in `metrics.jsonl`."""
    final = {
        line['seed']: line
        for line in workdir.lines(folder / 'metrics.jsonl')
        if line['kind'] == 'eval' and line['step'] == config.steps
    }
    rows = program.labelled(config, built.sets, config.seed)
    test = len(built.sets.test.labels) if built.sets.test else len(built.sets.train.labels) - len(rows)
    return {
        'kind': 'run',
        'label': label,
        'method': config.method.name,
        'steps': config.steps,
        'classes': list(built.sets.train.classes),
        'train_examples': len(rows),
        'test_examples': test,
        'seeds': [
            {
                'seed': seed,
                'accuracy': final[seed]['accuracy'],
                'loss': final[seed]['loss'],
                'prepared': dict(workdir.load_prepared(folder / f'prepared-{seed}.npz').notes),
            }
            for seed in seeds
        ],
        'accuracy': spread([final[seed]['accuracy'] for seed in seeds]),
    }


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
