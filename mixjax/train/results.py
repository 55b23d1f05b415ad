"""The results of a run, `results.json`, from the evaluations in `metrics.jsonl`; and the description of its data."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixjax.config import method_registry
from mixjax.data.labelled import split_file, splits
from mixjax.host.processes import by_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.train import evaluation, prepare
from mixjax.train.program import Program
from mixjax.train.seeds import seeds_of


@by_first
def summary(program: Program, folder: Place, label: str) -> dict[str, Any]:
    """Return the contents of `results.json`: the evaluations of the steps that are kept."""
    config, seeds = program.config, seeds_of(program.config)
    steps = evaluation.result_steps(config, folder, seeds)
    final, val = (
        {
            line['seed']: line
            for line in files.read_lines(folder / 'metrics.jsonl')
            if line['kind'] == kind and line['step'] == steps.get(line['seed'])
        }
        for kind in ('eval', 'val')
    )
    drawn = program.draw(config.seed).rows
    untested = config.target.test == splits.NOTHING
    test = len(program.sets.test.labels) if program.sets.test else len(program.sets.train.labels) - len(drawn.known)
    if untested:
        test, final = 0, {seed: {program.task.primary: None, 'loss': None} for seed in seeds}
    task, logged = program.task, final[seeds[0]]
    if task.rows:
        # Those of each output follow their common ones, as in 'MAE age'.
        more = [name for name in logged if name.partition(' ')[0] in task.named and name != task.primary]
        about = {'task': task.name, 'primary': task.primary, 'higher_is_better': task.higher}
    else:
        more, about = [name for name in ('top5', 'mean_per_class') if name in logged], {}
    known = {'seed', 'step', 'kind', 'loss', task.primary, *more}
    own = [name for name in logged if name not in known]
    return {
        'kind': 'run',
        'label': label,
        'method': method_registry.title(config.method),
        'steps': config.steps,
        'classes': list(program.sets.train.classes),
        'train_examples': len(drawn.train),
        'val_examples': evaluation.val_count(program, config.seed),
        'test_examples': test,
        'keep': config.keep,
        **about,
        'seeds': [
            {
                'seed': seed,
                'step': steps[seed],
                task.primary: final[seed][task.primary],
                'loss': final[seed]['loss'],
                **{name: final[seed][name] for name in more},
                **({f'val_{task.primary}': val[seed][task.primary]} if seed in val else {}),
                **({'measures': {name: final[seed][name] for name in own}} if own else {}),
                'prepared': dict(prepare.load_prepared(folder / f'prepared-{seed}.npz').notes),
            }
            for seed in seeds
        ],
        task.primary: known_spread([final[seed][task.primary] for seed in seeds]),
        **{name: known_spread([final[seed][name] for seed in seeds]) for name in more},
        **({'measures': {name: known_spread([final[seed][name] for seed in seeds]) for name in own}} if own else {}),
    }


@by_first
def describe_data(program: Program, folder: Place) -> None:
    """Write `splits.json`, and `data.json` if there are notes on the data."""
    sets = program.sets
    drawn = {seed: program.draw(seed).rows for seed in seeds_of(program.config)}
    held = split_file.contents(program.config.target.name, sets.whole, sets.train, sets.rows, dict(sets.stamps), drawn)
    files.write_json(folder / 'splits.json', held)
    if sets.notes:
        notes = {'notes': list(sets.notes), 'unreadable': dict(sets.unreadable)}
        files.write_json(folder / 'data.json', notes)


def spread(values: list[float]) -> dict[str, Any]:
    """Return the mean, sample standard deviation (n - 1; None for one value) and n."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'n': len(values)}


def known_spread(values: list[float | None]) -> dict[str, Any]:
    """Return `spread`, without mean and deviation if a value is not known, because it was not finite."""
    found = [value for value in values if value is not None]
    return spread(found) if len(found) == len(values) else {'mean': None, 'std': None, 'n': len(values)}


def differences(runs: dict[str, dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Return the primary measure minus the baseline's, paired over seeds: mean, standard error and n."""
    primary = runs[baseline].get('primary', 'accuracy')
    base = [seed[primary] for seed in runs[baseline]['seeds']]
    out = {}
    for label, results in runs.items():
        if label != baseline:
            pairs = [(seed[primary], b) for seed, b in zip(results['seeds'], base, strict=True)]
            if any(None in pair for pair in pairs):  # a measure that was not finite
                continue
            over = spread([one - b for one, b in pairs])
            stderr = None if over['std'] is None else over['std'] / over['n'] ** 0.5
            out[label] = {'mean': over['mean'], 'stderr': stderr, 'n': over['n']}
    return out


def sentence(found: dict[str, Any]) -> str:
    """Return the result of a run in words: `81.50 +- 0.70 % correct (n=3)`, `mAP 0.7134 +- 0.012 (n=3)`."""
    primary = found.get('primary', 'accuracy')
    mean, std, n = (found[primary][key] for key in ('mean', 'std', 'n'))
    if not found.get('test_examples', 1):  # nothing was tested
        return f'trained on {found["train_examples"]:,} images, and tested on none'
    if primary == 'accuracy':
        return f'{100 * mean:.2f}{"" if std is None else f" +- {100 * std:.2f}"} % correct (n={n})'
    if mean is None:
        return f'{primary} not known, it was not finite (n={n})'
    return f'{primary} {mean:.4g}{"" if std is None else f" +- {std:.2g}"} (n={n})'
