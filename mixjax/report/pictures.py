"""Class pairs and mixed samples as pictures, small enough to keep the whole page a small file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mixjax.report import png
from mixjax.report.read import Folder, Run, Samples
from mixjax.report.tables import PairRow, pair_rows, pairs_html
from mixjax.report.words import bdi, escape, isolate
from mixjax.rundir.thumbnail import shrink

SMALL = 32  # pictures up to this side are enlarged without smoothing
LEAST, MOST = 24, 112  # sides to which larger pictures are reduced


class Plan(NamedTuple):
    """The number and size of pictures that fit.

    runs: number of runs with pictures.
    columns, cards: number of samples and of pairs.
    side: side of a picture in pixels.
    """

    runs: int
    columns: int
    cards: int
    side: int


def plan(folder: Folder, budget: int) -> Plan:
    """Return as many and as large pictures as fit in `budget` bytes even if nothing can be compressed."""
    native = max((max(array.shape[-3:-1]) for run in folder.runs for array in _arrays(run)), default=1)
    columns, cards = (8, 24) if native <= SMALL else (4, 12)
    for runs in range(len(folder.runs), 0, -1):
        planes = sum(_planes(run, columns, cards) for run in folder.runs[:runs])
        side = math.isqrt(int(budget * 3 / 4 / max(1, planes)))  # base64 makes 4 bytes of 3
        if side >= min(native, LEAST):
            return Plan(runs, columns, cards, min(side, native, MOST))
    return Plan(0, columns, cards, LEAST)


def _arrays(run: Run) -> list[np.ndarray]:
    found = [run.pairs.target, run.pairs.source] if run.pairs else []
    found += [run.samples.image] if run.samples else []
    found += [one.image for one in (run.predictions, run.outputs) if one]
    return [array for array in found if array is not None and array.size]


def _planes(run: Run, columns: int, cards: int) -> int:
    """Return the number of pictures of a run, times their channels."""
    total = 0
    if run.samples:
        rows = sample_rows(run.samples)
        total += sum(min(columns, len(images)) * images.shape[-1] for _, images in rows)
    for found in (run.predictions, run.outputs):
        total += len(found.image) * found.image.shape[-1] if found else 0
    if run.pairs and run.pairs.target is not None:
        rows = pair_rows(run.pairs.table)[:cards]
        total += sum(1 + len(row.sources) for row in rows) * run.pairs.target.shape[-1]
    return total


def picture(pixels: np.ndarray, alt: str, side: int) -> str:
    """Return an image of at most `side` pixels with its bytes in the page, from (H, W, C) uint8."""
    small = shrink(pixels, side)
    kind = ' class="pixels"' if max(pixels.shape[:2]) <= SMALL else ''
    size = f'width="{small.shape[1]}" height="{small.shape[0]}"'
    return f'<img{kind} {size} alt="{escape(alt)}" src="{png.data_uri(small)}">'


# --- class pairs ------------------------------------------------------------------------------------------------------


def pairs(run: Run, plan: Plan) -> str:
    """Return a card for each target class: its example beside one of each source class it is paired with."""
    assert run.pairs is not None
    rows = pair_rows(run.pairs.table)
    shown = rows[: plan.cards] if run.pairs.target is not None else ()
    cards = '\n'.join(_card(run, index, row, plan.side) for index, row in enumerate(shown))
    widest = 1 + max((len(row.sources) for row in shown), default=1)
    parts = [f'<ul class="pairs" style="--n:{widest}">\n{cards}\n</ul>'] if cards else []
    if len(shown) < len(rows):
        text = f'The first {len(shown)} of {len(rows)} classes; all are in the table.' if shown else ''
        parts += [f'<p class="note">{text}</p>'] if text else []
        parts.append(f'<details><summary>All pairs as a table</summary>{pairs_html(run.pairs.table)}</details>')
    return '\n'.join(parts)


def _card(run: Run, index: int, row: PairRow, side: int) -> str:
    assert run.pairs is not None and run.pairs.target is not None and run.pairs.source is not None
    target = picture(run.pairs.target[index], f'an example of the target class {isolate(row.target)}', side)
    sources = [
        picture(run.pairs.source[index, place], f'an example of the source class {isolate(source)}', side)
        for place, source in enumerate(row.sources)
    ]
    arrow = '<span class="arrow" aria-hidden="true">\u2192</span>'
    values = ', '.join(f'{value:.2f}' for value in row.similarity)
    names = f'<b>{bdi(row.target)}</b> \u2192 {", ".join(map(bdi, row.sources))}'
    return (
        f'<li><div class="pictures">{target}{arrow}{"".join(sources)}</div>'
        f'<p>{names} <span class="value">{values}</span></p></li>'
    )


# --- mixed samples ----------------------------------------------------------------------------------------------------


def sample_rows(samples: Samples) -> list[tuple[str, np.ndarray]]:
    """Return (description, (k, H, W, C)) of the inputs and outputs of mixing, without uninformative rows.

    The partner is shown if the network saw something else than the target image and no source image was
    drawn; if it saw the target image itself there is one row.
    """
    same = samples.seen.shape == samples.image.shape and bool(
        (np.abs(samples.seen.astype(int) - samples.image) <= 1).all()  # rounding
    )
    if samples.source is not None:
        return [('target image', samples.image), ('source image', samples.source), ('seen', samples.seen)]
    if same:
        return [('seen', samples.image)]
    return [('target image', samples.image), ('its partner', samples.partner), ('seen', samples.seen)]


def shares(rows: Sequence[tuple[str, np.ndarray]]) -> list[float | None]:
    """Return the share of each target image in the mixed image, if that is a blend of the two rows above it.

    It is the least-squares weight w of `seen = w * target + (1 - w) * other`; None if the two pictures
    are alike, and an empty list if some picture is not such a blend (for example with pasted boxes).
    """
    if len(rows) < 3 or len({images.shape for _, images in rows}) > 1:
        return []
    image, other, seen = (images.astype(float).reshape(len(images), -1) for _, images in rows)
    gap = image - other
    weight = ((seen - other) * gap).sum(axis=1) / np.maximum((gap**2).sum(axis=1), 1)
    left = np.abs(other + weight[:, None] * gap - seen).max(axis=1)
    if (left > 2).any():  # grey levels; each of the three is rounded
        return []
    return [float(w) if wide else None for w, wide in zip(weight, np.abs(gap).max(axis=1) > 16, strict=True)]


def samples(run: Run, plan: Plan) -> str:
    """Return rows of pictures: the target images, the images mixed with them, and the network's inputs."""
    assert run.samples is not None
    rows = sample_rows(run.samples)
    columns = min(plan.columns, len(run.samples.label))
    names = [_class_name(run.results['classes'], int(label)) for label in run.samples.label[:columns]]
    body = [_words('label', names)] if any(names) else []
    body += [_row(title, images[:columns], names, plan.side) for title, images in rows]
    found = ['' if share is None else f'{100 * share:.0f} %' for share in shares(rows)[:columns]]
    body += [_words('target\u2019s share', found)] if found else []
    large = ' large' if columns <= 4 else ''
    note = (
        ' <span class="note">in this batch it was given the target images as they are</span>' if len(rows) == 1 else ''
    )
    caption = f'<figcaption><b>{bdi(run.label)}</b>{note}</figcaption>'
    return '\n'.join([f'<figure class="samples{large}" style="--n:{columns}">{caption}', *body, '</figure>'])


def _class_name(classes: Sequence[str], label: int) -> str:
    # A picture of another task than classification has no class.
    return classes[label] if 0 <= label < len(classes) else '' if label == -1 else str(label)


def _words(title: str, words: Sequence[str]) -> str:
    cells = ''.join(f'<span class="label" title="{escape(word)}">{bdi(word)}</span>' for word in words)
    return f'<div class="row words"><span class="what">{title}</span>{cells}</div>'


def _row(title: str, images: np.ndarray, names: Sequence[str], side: int) -> str:
    alts = [f'{title}, label {isolate(one)}' if one else title for one in names]
    cells = [picture(image, alt, side) for image, alt in zip(images, alts, strict=True)]
    return f'<div class="row"><span class="what">{title}</span>{"".join(cells)}</div>'
