"""Measurements besides accuracy (`mixjax analyse`), as tables, charts and pictures; shown where they exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report import analysis_results, curves, pictures, plots, svg, tables
from mixjax.report.read import Folder, Run
from mixjax.report.words import bdi, escape, isolate

POINTS = 250  # of a scatter plot
AMBER = (255, 176, 0)  # distinct from grey with every kind of sight
LEAST, MOST = 16, 72  # sides of pictures
Blocks = dict[str, tuple[str, str]]
Draw = Callable[[Folder, list[Run], str, int], str]


def over(workdirs: Sequence[str | Place], folders: Sequence[Folder]) -> str:
    """Return a chart of the measurements over the values of a sweep; '' for other folders."""
    if len(workdirs) != 1 or len(folders) < 2:
        return ''
    runs = [
        run._replace(label=f'{run.label} {folder.name.rpartition("=")[2]}') for folder in folders for run in folder.runs
    ]
    top = storage.to_place(workdirs[0])
    whole = Folder(top.name, {}, {}, {}, tuple(runs), analysis_results.read(top))
    found = blocks(whole, 's0', 0, ('sweep', 'interpolation', 'spectrum', 'probe'))
    return '\n'.join(f'<h2 id="s0-head-{name}">{title}</h2>\n{block}' for name, (title, block) in found.items())


def blocks(folder: Folder, prefix: str, budget: int, only: Sequence[str] = ()) -> Blocks:
    """Return {name: (title, HTML)} of every measure that some run has.

    Args:
      folder: the work directory.
      prefix: prefix of ids.
      budget: bytes of pictures.
      only: measures to show; () for all.
    """
    draw: dict[str, tuple[str, Draw]] = {
        'sweep': ('Accuracy against a setting', _sweep),
        'interpolation': ('Interpolation loss', _interpolation),
        'spectrum': ('Tail singular values', _spectrum),
        'probe': ('What it still knows of the source', _probe),
        'targets': ('Soft targets', _targets),
        'plane': ('Two units', _plane),
        'cam': ('Class activation maps', _cam),
    }
    out: Blocks = {}
    for what, (title, make) in draw.items():
        runs = [run for run in folder.runs if what in run.measured.numbers]
        if (runs or what in folder.measured.numbers) and (not only or what in only):
            try:
                out[what] = (title, make(folder, runs, f'{prefix}-{what}', budget))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise UserError(
                    f'the analysis.json of {folder.name} is damaged, or of another version ({what}: '
                    f'{type(error).__name__} {error}): measure {what} again'
                ) from error
    return out


def _spread(one: Mapping[str, Any], factor: float = 1.0) -> str:
    """Return the mean and the deviation, with two significant digits of the latter: 0.3088 +- 0.0018."""
    mean, std = factor * one['mean'], factor * (one['std'] or 0.0)
    if not (math.isfinite(std) and std > 0):
        return f'{mean:.4g}' + ('' if one['std'] is None else f' \u00b1 {std:.4g}')
    decimals = min(6, max(0, 1 - math.floor(math.log10(std))))
    return f'{mean:.{decimals}f} \u00b1 {std:.{decimals}f}'


def _figure(chart: str, caption: str) -> str:
    return f'<figure class="plot">{chart}<figcaption>{escape(caption)}</figcaption></figure>'


def _series(label: str, colour: int, x: Sequence[float], values: np.ndarray) -> svg.Series:
    """Return a line of the means over seeds, (seeds, k), with a band of one standard deviation."""
    mean = values.mean(0)
    std = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    low, high = mean - std, mean + std
    return svg.Series(label, colour, tuple(x), *(tuple(map(float, one)) for one in (mean, low, high)))


# --- lines ------------------------------------------------------------------------------------------------------------


def _interpolation(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del budget
    keys = ('label_train', 'label_test', 'feature_train', 'feature_test')
    rows = [[run.label, *(_spread(run.measured.numbers['interpolation'][key]) for key in keys)] for run in runs]
    head = ['', *(key.replace('_', ', ') for key in keys)]
    table = tables.html_table('Interpolation loss; lower is nearer to linear', head, rows, numbers=4)
    settings = runs[0].measured.numbers['interpolation']['settings']
    colours = curves.colours(folder.runs, folder.baseline)
    charts = []
    for what in ('label', 'feature'):
        lines = []
        for run in runs:
            arrays = run.measured.arrays('interpolation')
            lines.append(_series(run.label, colours[run.label], arrays['lam'].tolist(), arrays[f'{what}_test']))
        ends = '; '.join(f'{isolate(row[0])} {row[2 if what == "label" else 4]}' for row in rows)
        text = svg.Text(f'{name}-{what}', f'{what.title()} interpolation loss on test images', f'Means: {ends}.')
        charts.append(_figure(svg.line_chart(lines, text, 'share of the first image', f'{what}-IL'), text.title))
    of = {'label': settings['of'], 'scale': settings['scale']}
    note = (
        f'How far the network is from linear between two images: the label loss of its {of["label"]}, the feature loss '
        f'of its pooled features ({of["scale"]}); squared distances, means over pairs of images and over their shares.'
    )
    return f'<p class="note">{escape(note)}</p><div class="stack">{table}<div class="two">{"".join(charts)}</div></div>'


def _spectrum(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del budget
    colours = curves.colours(folder.runs, folder.baseline)
    lines = []
    for run in runs:
        found, values = run.measured.numbers['spectrum'], run.measured.arrays('spectrum')['values']
        tail = values[:, ::-1][:, : len(found['values'])]
        lines.append(_series(run.label, colours[run.label], range(1, tail.shape[1] + 1), tail))
    numbers = runs[0].measured.numbers['spectrum']
    smallest = '; '.join(f'{isolate(run.label)} {run.measured.numbers["spectrum"]["values"][0]:.3g}' for run in runs)
    text = svg.Text(name, 'The smallest singular values of the features', f'The smallest: {smallest}.')
    chart = svg.line_chart(lines, text, 'place from below', 'singular value / the largest')
    rows = [[run.label, *(f'{v:.3g}' for v in run.measured.numbers['spectrum']['values'])] for run in runs]
    head = ['', *map(str, range(1, len(rows[0])))]
    table = tables.html_table('Means over seeds, by the place from below', head, rows, numbers=len(rows[0]) - 1)
    note = f'Of {numbers["settings"]["images"]} {numbers["settings"]["part"]} images, divided by the largest value.'
    return f'{_figure(chart, f"{text.title}. {note}")}<details><summary>As a table</summary>{table}</details>'


def _sweep(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del runs, budget
    found = folder.measured.numbers['sweep']
    scale = math.log2 if found['logarithmic'] else float
    x = tuple(scale(number) for number in found['numbers'])
    lines = []
    for place, (label, curve) in enumerate(found['curves'].items(), 1):
        mean = tuple(100 * one['mean'] for one in curve)
        std = tuple(100 * (one['std'] or 0.0) for one in curve)
        edges = (tuple(m + sign * s for m, s in zip(mean, std, strict=True)) for sign in (-1, 1))
        lines.append(svg.Series(label, place, x, mean, *edges))
    others = sorted(found['others'], key=lambda label: label != folder.baseline)
    for place, label in enumerate(others):
        level = (100 * found['others'][label]['mean'],) * 2
        colour = 0 if label == folder.baseline else len(found['curves']) + place
        lines.append(svg.Series(label, colour, (x[0], x[-1]), level, level, level))
    over = f'log2 of {found["over"]}' if found['logarithmic'] else found['over']
    top = found['best'].items()
    best = '; '.join(f'{isolate(label)} best at {one["number"]:g}, {100 * one["mean"]:.2f} %' for label, one in top)
    text = svg.Text(name, f'Test accuracy against {found["over"]}', f'{best}.')
    rows = [
        [label, f'{number:g}', _spread(one, 100)]
        for label, curve in found['curves'].items()
        for number, one in zip(found['numbers'], curve, strict=True)
    ] + [[label, '-', _spread(found['others'][label], 100)] for label in others]
    table = tables.html_table(text.title, ['', found['over'], 'accuracy %'], rows, numbers=2)
    chart = svg.line_chart(lines, text, over, 'test accuracy (%)')
    return f'{_figure(chart, f"{text.title}: {best}.")}<details><summary>As a table</summary>{table}</details>'


def _probe(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del folder, name, budget
    keys = ('auxiliary', 'all_but_auxiliary', 'all')
    found = [(run.label, run.measured.numbers['probe']) for run in runs]
    rows = [[label, *(_spread(one[key], 100) if key in one else '-' for key in keys)] for label, one in found]
    caption = 'Accuracy (%) of a new classifier on the frozen trunk, on parts of the source data set'
    return tables.html_table(caption, ['', *(key.replace('_', ' ') for key in keys)], rows, numbers=3)


# --- pictures ---------------------------------------------------------------------------------------------------------


def _targets(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del folder, budget
    parts = []
    for index, run in enumerate(runs):
        found, arrays = run.measured.numbers['targets'], run.measured.arrays('targets')
        bars = [plots.Bars(kind, i, tuple(found['top'][kind])) for i, kind in enumerate(('original', 'mixed'), 1)]
        told = '; '.join(f'{one.label} {", ".join(f"{value:.3f}" for value in one.values)}' for one in bars)
        text = svg.Text(f'{name}-{index}-top', f'{isolate(run.label)}: largest soft targets', f'Means: {told}.')
        names = [f'no. {k + 1}' for k in range(len(bars[0].values))]
        charts = [_figure(plots.bar_chart(bars, names, text, 'mean target'), text.title)]
        steps = [f'{int(step):,}' for step in arrays['step']]
        for key, what in (('target', 'soft targets'), ('global', 'learned parts of the targets')):
            end = 1.0 if key == 'target' else float(arrays['bounds'][1])
            title = f'{isolate(run.label)}: {what} of one batch of mixed images'
            each = zip(steps, arrays['mixed_global_max'], strict=True)
            most = ', '.join(f'step {step} {value:.3f}' for step, value in each)
            text = svg.Text(f'{name}-{index}-{key}', title, f'Mean of the largest learned part: {most}.')
            rows = list(zip(steps, arrays[f'mixed_{key}'].tolist(), strict=True))
            chart = plots.strips(rows, (0.0, end), text, plots.Words('value', 'step'))
            charts.append(_figure(chart, f'{title}, by step.'))
        parts.append(f'<div class="two">{"".join(charts)}</div>')
    return '\n'.join(parts)


def _plane(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del folder, budget
    parts = []
    for index, run in enumerate(runs):
        found, arrays = run.measured.numbers['plane'], run.measured.arrays('plane')
        shown = np.linspace(0, len(found['steps']) - 1, min(4, len(found['steps']))).round().astype(int)
        charts = []
        for k in shown:
            title = f'{isolate(run.label)}, step {found["steps"][k]:,}'
            apart = found['separation'][k]
            told = f'distance between classes over distance within {"infinite" if apart is None else f"{apart:.2f}"}'
            text = svg.Text(f'{name}-{index}-{k}', title, f'{told}.')
            clouds = _clouds(run, arrays['codes'][k], arrays['label'])
            charts.append(_figure(plots.scatter(clouds, text), f'{title}: {told}'))
        parts.append(f'<div class="two">{"".join(charts)}</div>')
    return '\n'.join(parts)


def _clouds(run: Run, codes: np.ndarray, label: np.ndarray) -> list[plots.Cloud]:
    classes = np.unique(label)
    each = max(1, POINTS // len(classes))
    out = []
    for place, k in enumerate(classes, 1):
        mine = codes[label == k][:each].astype(float)
        out.append(plots.Cloud(run.results['classes'][k], place, tuple(mine[:, 0]), tuple(mine[:, 1])))
    return out


def _cam(folder: Folder, runs: list[Run], name: str, budget: int) -> str:
    del folder, name
    rows = [[run.label, _spread(run.measured.numbers['cam']['area'], 100)] for run in runs]
    caption = 'Share of the image (%) where the map of the true class is above half of its maximum; lower is narrower'
    parts = [tables.html_table(caption, ['', 'share'], rows, numbers=1)]
    arrays = [run.measured.arrays('cam') for run in runs]
    for many in range(len(runs), 0, -1):
        planes = sum(len(one['label']) * (one['image'].shape[-1] + 3) for one in arrays[:many])
        side = min(MOST, math.isqrt(int(budget * 3 / 4 / planes)))
        if side >= LEAST:
            return '\n'.join([*parts, *map(_maps, runs[:many], arrays[:many], [side] * many)])
    return parts[0]


def _maps(run: Run, arrays: Mapping[str, np.ndarray], side: int) -> str:
    names = [run.results['classes'][int(k)] for k in arrays['label']]
    image, rows = arrays['image'], []
    for title, shown in (('test image', image), ('its map', heated(image, arrays['cam']))):
        each = zip(shown, map(isolate, names), strict=True)
        cells = [pictures.picture(one, f'{title}, {name}', side) for one, name in each]
        rows.append(f'<div class="row"><span class="what">{title}</span>{"".join(cells)}</div>')
    labels = ''.join(f'<span class="label" title="{escape(one)}">{bdi(one)}</span>' for one in names)
    head = f'<div class="row words"><span class="what">class</span>{labels}</div>'
    caption = f'<figcaption><b>{bdi(run.label)}</b></figcaption>'
    return f'<figure class="samples" style="--n:{len(names)}">{caption}{head}{"".join(rows)}</figure>'


def heated(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return grey images under a map in [0, 1]: (n, H, W, C) uint8 and (n, H, W) -> (n, H, W, 3) uint8."""
    grey = image.astype(float).mean(-1, keepdims=True)
    weight = 0.75 * np.clip(shares, 0, 1)[..., None]
    return np.rint((1 - weight) * grey + weight * np.array(AMBER)).astype(np.uint8)
