"""The settings of a run, its environment, and the command that repeats it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from mixjax.report.read import Folder
from mixjax.report.tables import html_table
from mixjax.report.words import count, escape, isolate

# The settings that matter most to readers, by their place in the config.
KEYS = (
    ('Target data', 'target.name'),
    ('Task', 'target.task'),
    ('Labels per class', 'target.per_class'),
    ('Share of labels', 'target.rate'),
    ('Labels in all', 'target.images'),
    ('Share of the labels that validates', 'target.val'),
    ('Kept step', 'keep'),
    ('Source data', 'source.name'),
    ('Network', 'model.name'),
    ('Pretrained weights', 'model.weights'),
    ('Precision', 'model.dtype'),
    ('Image crop', 'image.crop'),
    ('Border before the crop', 'image.pad'),
    ('Random flip', 'image.flip'),
    ('Augmentation', 'image.augment'),
    ('Views of a test image', 'image.tta'),
    ('Steps', 'steps'),
    ('Batch size', 'batch_size'),
    ('Optimiser', 'optim.name'),
    ('Learning rate', 'optim.lr'),
    ('Schedule', 'optim.schedule'),
    ('Warm-up', 'optim.warmup'),
    ('Momentum', 'optim.momentum'),
    ('Weight decay', 'optim.weight_decay'),
    ('First seed', 'seed'),
    ('Seeds', 'num_seeds'),
)


def lookup(config: Mapping[str, Any], place: str) -> Any:
    """Return a setting by its place, `lookup(config, 'optim.lr')`; None if there is no such key."""
    value: Any = config
    for part in place.split('.'):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def value_text(value: Any) -> str:
    """Return a setting as text: lists with commas, booleans as yes and no, numbers in their shortest form."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, list):
        return ', '.join(map(value_text, value))
    if isinstance(value, Mapping):
        return ', '.join(f'{key} = {value_text(item)}' for key, item in value.items())
    return 'none' if value is None else str(value)


def target(folder: Folder) -> str:
    """Return the name of the target data; for a user's images that of their folder."""
    place = str(lookup(folder.config, 'target.dir') or '').rstrip('/').rpartition('/')[2]
    return place or str(lookup(folder.config, 'target.name') or 'results')


def title(folder: Folder) -> str:
    """Return the title of a work directory: `5 methods on digits`."""
    what = folder.runs[0].label if len(folder.runs) == 1 else count(len(folder.runs), 'method')
    return f'{isolate(what)} on {isolate(target(folder))}'


def subtitle(folder: Folder) -> str:
    """Return a line with the numbers of classes, images, seeds and steps."""
    results = folder.runs[0].results
    labelled = count(results['train_examples'], 'labelled image')
    test = count(results['test_examples'], 'test image')
    seeds, steps = count(len(results['seeds']), 'seed'), count(results['steps'], 'step')
    return f'{outputs(results)}, {labelled}, {test}; {seeds} of {steps}'


def outputs(results: Mapping[str, Any]) -> str:
    """Return the number of outputs of a run in words: `10 classes`, `2 labels`, `1 number`."""
    words = {'multi_label': ('label', 'labels'), 'regression': ('number', 'numbers')}
    return count(len(results['classes']), *words.get(str(results.get('task')), ('class', 'classes')))


def labels(config: Mapping[str, Any]) -> str:
    """Return the labelled share of the target data: `3 per class`, `15 %`, `25 % of the classes, 400 images`, `all`."""
    target = lookup(config, 'target')
    of = target if isinstance(target, Mapping) else {}
    rate, chosen = of.get('rate', 1.0), of.get('classes', 1.0)
    parts = []
    if _number(chosen) and chosen != 1:
        parts.append(f'{100 * chosen:g} % of the classes' if chosen < 1 else f'{chosen:g} classes')
    if of.get('splits'):
        parts.append('a given split')
    elif of.get('per_class'):
        parts.append(f'{value_text(of["per_class"])} per class')
    elif of.get('images'):
        parts.append(f'{value_text(of["images"])} images')
    elif of.get('counts'):
        parts.append('a number for each class')
    elif _number(rate) and rate < 1:
        parts.append(f'{100 * rate:g} %')
    else:
        parts.append('all')
    return ', '.join(parts) + (', and the rest' if of.get('add_rest') else '')


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def settings_html(folder: Folder, whole: bool = True) -> str:
    """Return the main settings and the knobs of each method; with `whole` the whole config too, folded."""
    config = folder.config
    synthetic = bool(lookup(config, 'synthetic.side'))
    rows = [[title, value_text(lookup(config, place))] for title, place in KEYS if _said(config, place)]
    if synthetic:
        rows.insert(0, ['Images', 'made up: a trial of the settings, not a result'])
    methods = []
    for run in folder.runs:
        said = lookup(run.config, 'method')
        method = dict(said) if isinstance(said, Mapping) and said else {'name': run.results['method']}
        settings = {key: value for key, value in method.items() if key not in ('name', 'wrappers')}
        methods.append([run.label, run.results['method'], value_text(settings) or 'none'])
    text = json.dumps(config, indent=2, ensure_ascii=False)
    details = f'\n<details><summary>The whole configuration</summary>{_code(text, "configuration")}</details>'
    return (
        f'<div class="two">{html_table("Experiment", ["", ""], rows)}<div class="stack">'
        f'{html_table("Methods", ["label", "method", "settings"], methods)}{environment_html(folder.env)}</div></div>'
        f'{details if whole else ""}'
    )


def _said(config: Mapping[str, Any], place: str) -> bool:
    value = lookup(config, place)
    if place in ('target.per_class', 'target.images', 'target.val', 'optim.warmup'):
        return bool(value)
    if place == 'optim.momentum' and lookup(config, 'optim.name') not in (None, 'sgd'):
        return False
    if place == 'target.rate' and (lookup(config, 'target.per_class') or lookup(config, 'target.images')):
        return False
    return value is not None and value != ''


def environment_html(env: Mapping[str, Any]) -> str:
    """Return versions, devices and commit."""
    rows = []
    for key, value in env.items():
        if key == 'command':
            continue
        if key == 'devices' and isinstance(value, list):
            kinds = dict.fromkeys(map(str, value))
            value = ', '.join(f'{value.count(kind)} \u00d7 {kind}' for kind in kinds)
        rows.append([key, value_text(value)])
    return html_table('Environment', ['', ''], rows)


def command_of(folder: Folder) -> str:
    """Return the recorded command; '' if there is none."""
    command = folder.env.get('command') or ''
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def repeat_html(folder: Folder) -> str:
    """Return the command that reproduces these numbers."""
    command = command_of(folder)
    if not command:
        return '<p>No command was recorded; the whole configuration is above.</p>'
    seeds = count(len(folder.runs[0].results['seeds']), 'seed') + (' of each method' if len(folder.runs) > 1 else '')
    same = 'On the same machine and versions it gives the same numbers, bit for bit.'
    return f'<p>All of the above, {seeds}. {same}</p>{_code(command, "command")}'


def _code(text: str, what: str) -> str:
    """Return preformatted text in a box that scrolls by keyboard."""
    return f'<pre role="region" tabindex="0" aria-label="{what}"><code>{escape(text)}</code></pre>'
