"""What writes a report of files that others wrote, for `readers.READERS`."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from mixjax.host.terminal import BIDI
from mixjax.report import files, html
from mixjax.report.gather import gather
from tests.hostile.mutate import flawed, flawed_json, flawed_lines
from tests.hostile.readers import Flaw, Reader
from tests.support import fake

RUN = (
    'results.json',
    'config.json',
    'env.json',
    'metrics.jsonl',
    'pairs.json',
    'data.json',
    'samples.npz',
    'pairs.npz',
    'predictions.npz',
)


def run_folder(folder: Path) -> Path:
    """A small finished run beside the file."""
    run = folder / 'run'
    if not run.exists():
        fake.make_run(run, 'xmixup', [0.5, 0.6], pairs=True, classes=('a', 'b'), side=4)
        fake.predict(run)
        (run / 'data.json').write_text(json.dumps({'notes': ['one image'], 'unreadable': {}}))
    return run


def reported(name: str) -> Reader:
    """The report of a run of which one file is flawed."""

    def good(folder: Path) -> list[bytes]:
        return [(run_folder(folder) / name).read_bytes()]

    def read(path: Path) -> None:
        run = run_folder(path.parent)
        whole = (run / name).read_bytes()
        try:
            (run / name).write_bytes(path.read_bytes())
            page = html.render([run])
            beside = files.contents(gather([run]), run / 'report.html')
        finally:
            (run / name).write_bytes(whole)
        lower = page.lower()
        assert '<script' not in lower and '<img src=x' not in lower
        assert '\x1b' not in page and '\0' not in page
        for text in (page, *beside.values()):
            left = re.sub(f'\u2068[^{BIDI}]*\u2069', '', text)  # the names that the report itself has set apart
            assert not re.search(f'[{BIDI}]', left)
        for row in csv.reader(io.StringIO(beside[run / 'results.csv'])):
            assert not any(cell.startswith(('=', '@', '+')) for cell in row)

    flaws: dict[str, Flaw] = {'.json': flawed_json, '.jsonl': flawed_lines, '.npz': flawed}
    return Reader(good, read, flaws[Path(name).suffix])


def compared() -> Reader:
    """The report of a comparison whose results are flawed."""

    def good(folder: Path) -> list[bytes]:
        if not (folder / 'both').exists():
            fake.make_run(folder / 'grid' / 'one', 'finetune', [0.5], side=4)
            fake.make_comparison(folder / 'both', {'finetune': 0.5, 'mixup': 0.6}, seeds=2, classes=('a', 'b'), side=4)
        return [(folder / 'both' / 'results.json').read_bytes()]

    def read(path: Path) -> None:
        whole = good(path.parent)[0]
        place = path.parent / 'both' / 'results.json'
        try:
            place.write_bytes(path.read_bytes())
            assert '<script' not in html.render([place.parent]).lower()
            assert '<script' not in html.render([place.parent.parent / 'grid', place.parent]).lower()
        finally:
            place.write_bytes(whole)

    return Reader(good, read, flawed_json)


READERS: dict[str, Reader] = {
    **{f'report: {name}': reported(name) for name in RUN},
    'report: a comparison': compared(),
}
