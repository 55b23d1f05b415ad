"""The pictures at the top of README.md, drawn from a finished comparison: `make picture`.

    python -m reproduction.picture runs/quickstart

Writes docs/images/: the accuracy of each method, as the report charts it, and the images that each method trained on,
both as SVG files for light and for dark pages. Nothing in them is fetched, and no image is embedded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from mixjax.errors import UserError
from mixjax.report import curves, read, style, svg
from mixjax.report.tables import accuracy_rows
from mixjax.report.words import escape

IMAGES = Path(__file__).parents[1] / 'docs' / 'images'
MODES = {'light': style.LIGHT_MODE, 'dark': style.DARK_MODE}
COLUMNS, LEVELS = 8, 16  # images of a method, and shades of grey
NAME, GAP = 66, 2  # width of the names, and between two images


def accuracy(folder: read.Folder) -> str:
    """The report's chart of a comparison: a dot for each seed, a bar at the mean."""
    colours = curves.colours(folder.runs, folder.baseline)
    rows = accuracy_rows(folder.results)
    dots = [
        svg.Dots(row.label, colours[row.label], tuple((seed, 100 * value) for seed, value in row.seeds), 100 * row.mean)
        for row in rows
    ]
    reference = next((100 * row.mean for row in rows if row.baseline), None)
    said = ', '.join(f'{row.label} {100 * row.mean:.1f}' for row in rows)
    text = svg.Text('accuracy', 'Test accuracy of each method', f'Mean over seeds in percent: {said}.')
    return svg.dot_chart(dots, text, 'test accuracy (%): a dot per seed, a bar at the mean', reference)


def mixed(folder: read.Folder) -> str:
    """A row for each method: some of the images that its network was trained on."""
    side = (svg.WIDTH - NAME) / COLUMNS - GAP
    parts = []
    for row, run in enumerate(folder.runs):
        if run.samples is None:
            raise UserError(f'{run.label} has kept no images; train it again with this version')
        top = row * (side + GAP)
        name = escape(svg.shorten(run.label, 10))
        parts.append(f'<text class="name" x="0" y="{top + side / 2 + 4:.1f}">{name}</text>')
        for column, image in enumerate(run.samples.seen[:COLUMNS]):
            left = NAME + column * (side + GAP)
            parts.append(f'<g transform="translate({left:.2f} {top:.2f}) scale({side / len(image):.4f})">')
            parts += [*pixels(image[..., 0]), '</g>']
    height = len(folder.runs) * (side + GAP)
    text = svg.Text('mixed', 'What each network is trained on', 'Images of one batch of each method, a method a row.')
    return svg.frame(text, height, parts)


def pixels(image: np.ndarray) -> list[str]:
    """A grey image (H, W) uint8 as a black square and a path per other shade, with a box per run of pixels."""
    height, width = image.shape
    shades = np.rint(image / 255 * (LEVELS - 1)).astype(int)
    paths: dict[int, list[str]] = {0: [f'M0 0h{width}v{height}h-{width}z']}
    for y, row in enumerate(shades):
        x = 0
        for shade, run in groupby(row.tolist()):
            length = len(list(run))
            if shade:
                paths.setdefault(shade, []).append(f'M{x} {y}h{length}v1h-{length}z')
            x += length
    return [
        f'<path shape-rendering="crispEdges" fill="rgb({grey},{grey},{grey})" d="{"".join(paths[shade])}"/>'
        for shade in sorted(paths)
        for grey in [round(255 * shade / (LEVELS - 1))]
    ]


def main(words: Sequence[str]) -> None:
    """Draw both pictures of the comparison in a work directory."""
    if len(words) != 1:
        raise SystemExit('usage: python -m reproduction.picture WORKDIR')
    (folder,) = read.read(list(words))
    IMAGES.mkdir(exist_ok=True)
    for name, drawing in {'accuracy': accuracy(folder), 'mixed': mixed(folder)}.items():
        for mode, variables in MODES.items():
            file = IMAGES / f'{name}-{mode}.svg'
            file.write_text(svg.standalone(drawing, style.of_chart(variables)))
            print(f'{file.relative_to(IMAGES.parents[1])}: {file.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
    main(sys.argv[1:])
