"""The front door: `run` trains what a config says, and `Results` holds what came out, with a type for everything.

`mixjax.train.run` is this `run`. The trainer itself (`mixjax.train.experiment`) imports neither the report nor the
predictor.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ml_collections import ConfigDict

from mixjax import inference, report
from mixjax.config import Config, method_registry
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import given
from mixjax.errors import UserError, nearest, require
from mixjax.host import storage
from mixjax.host.progress import Progress
from mixjax.inference import Predictor
from mixjax.method import Method
from mixjax.rundir import files
from mixjax.search import best as search
from mixjax.train import experiment

Make: TypeAlias = Callable[..., Method]
Kind: TypeAlias = Literal['run', 'comparison', 'sweep', 'search']


class Accuracy(NamedTuple):
    """The share of the test images that are classified correctly, or the primary measure of another task.

    mean: over the seeds. std: their sample standard deviation; None of one seed. n: how many seeds. per_seed: of each.
    """

    mean: float
    std: float | None
    n: int
    per_seed: tuple[float, ...]


class Results(dict[str, Any]):
    """The results of a run, a comparison or a sweep: the dict in `results.json`, with its parts as attributes.

    `mixjax.train.run` returns it, and `Results.read` reads that of an earlier run.

    workdir: the work directory.

    Example:
      >>> import pathlib
      >>> seeds = [{'seed': 0, 'accuracy': 0.5}, {'seed': 1, 'accuracy': 0.75}]
      >>> data = {'kind': 'run', 'label': 'smile', 'seeds': seeds, 'accuracy': {'mean': 0.625, 'std': 0.18, 'n': 2}}
      >>> results = Results(data, pathlib.Path('runs/smile'))
      >>> results.kind, results.accuracy.mean, results.accuracy.per_seed, list(results.runs)
      ('run', 0.625, (0.5, 0.75), ['smile'])
      >>> results['accuracy']['mean']
      0.625
    """

    def __init__(self, data: Mapping[str, Any], workdir: Path, makes: Mapping[str, Make] | None = None) -> None:
        super().__init__(data)
        self.workdir = workdir
        self._makes: dict[str, Make] = dict(makes or {})

    @classmethod
    def read(cls, workdir: str | Path) -> Results:
        """Read the results of a finished run.

        Args:
          workdir: its work directory; of a comparison or a sweep the whole, or the folder of one of its runs; or that
            of a search.

        Returns:
          The results.

        Example:
          >>> import json, pathlib, tempfile
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     text = json.dumps({'kind': 'run', 'label': 'smile', 'accuracy': {'mean': 0.5, 'std': None, 'n': 1}})
          ...     _ = pathlib.Path(folder, 'results.json').write_text(text)
          ...     Results.read(folder)['accuracy']['mean']
          0.5
        """
        folder = storage.reachable(workdir)
        if storage.is_file(folder / search.BEST):
            return cls(_of_search(files.read_json(folder / search.BEST)), folder)
        if not storage.is_file(folder / 'results.json'):
            raise UserError(f'{workdir} has no results.json: it is not the work directory of a finished run')
        found = files.read_json(folder / 'results.json')
        known = isinstance(found, dict) and found.get('kind') in ('run', 'comparison', 'sweep')
        require(known, f'{folder / "results.json"} was not written by mixjax')
        return cls(found, folder)

    @property
    def kind(self) -> Kind:
        """The kind: 'run' of one method, 'comparison' of several, 'sweep' over a setting, or 'search' (`best`)."""
        return self['kind']

    @property
    def accuracy(self) -> Accuracy:
        """The test accuracy of a run; a comparison or a sweep has one for each of its `runs`.

        Of a search it is the one to expect of its network: on the test part, or without one by cross-validation,
        without the flattery of the choice.
        """
        if self.kind == 'search':
            share = (self['test'] if 'test' in self else self['expected'])['accuracy']
            return Accuracy(share, None, 1, (share,))
        if self.kind != 'run':
            first = next(iter(self.runs))
            raise UserError(
                f'a {self.kind} itself has no accuracy, its runs have: results.runs[{first!r}].accuracy; the runs '
                f'are {", ".join(self.runs)}'
            )
        if 'primary' in self:
            raise UserError(
                f"the run is of the task {self['task']} and has no accuracy; results.primary is its {self['primary']}"
            )
        return self.primary

    @property
    def primary(self) -> Accuracy:
        """The primary measure of a run on the test part: the accuracy, mAP of several labels, or MAE of numbers."""
        if self.kind == 'search':
            return self.accuracy
        if self.kind != 'run':
            first = next(iter(self.runs))
            raise UserError(
                f'a {self.kind} has no measure of its own, its runs have: results.runs[{first!r}].primary; the runs '
                f'are {", ".join(self.runs)}'
            )
        name = self.get('primary', 'accuracy')
        found = self[name]
        return Accuracy(found['mean'], found['std'], found['n'], tuple(seed[name] for seed in self['seeds']))

    @property
    def runs(self) -> dict[str, Results]:
        """The parts, {label: results}: of a comparison by method, of a sweep by value; of a run its own alone."""
        if self.kind == 'run':
            return {self['label']: self}
        if self.kind == 'search':
            return {}
        return {label: Results(one, self.workdir / label, self._makes) for label, one in self['runs'].items()}

    def model(self, label: str = '', *, batch: int = 64) -> Predictor:
        """Load the network that was trained, ready to predict.

        Args:
          label: of a comparison or a sweep: which run's, one of `runs`.
          batch: how many images are predicted at once.

        Returns:
          The predictor, as `mixjax.load` gives it.
        """
        if self.kind == 'search':
            return inference.load(self.workdir, batch=batch)
        runs = self.runs
        if label not in runs and (label or self.kind != 'run'):
            wrong = f'there is no run {label!r}{nearest(label, runs)}' if label else f'say which run of the {self.kind}'
            raise UserError(f'{wrong}; the runs are {", ".join(runs)}')
        if self.kind != 'run':
            return runs[label].model(batch=batch)
        return inference.load(self.workdir, batch=batch, method=self._makes.get(self['method'].partition(' + ')[0]))

    def report(self) -> Path:
        """Write the report.

        Returns:
          The path of `report.html`; its tables are beside it, as `results.md` and `results.csv`.
        """
        return report.write(self.workdir)


def run(
    config: Config | ConfigDict, workdir: str | Path, *,
    target: Dataset | None = None, test: Dataset | None = None, source: Dataset | None = None,
    unlabelled: Dataset | None = None,
    method: str | Make | Mapping[str, str | Make] | None = None,
    progress: Progress | bool = True, changed_code: str = 'refuse',
) -> Results:  # fmt: skip
    """Train what a config says, or what is left of it: the same call goes on with a run that was stopped.

    Args:
      config: from `mixjax.config.load`, or `mixjax.config.base()` with what differs set. It is not changed.
      workdir: the folder of the run, a path or gs://BUCKET/FOLDER.
      target: images to learn, in the place of `config.target.name`.
      test: images to test on. Without them a share of each class of the target is held out (`config.target.holdout`);
        if that is 0, the images that are not labelled are tested on.
      source: the images that the weights were trained on, in the place of `config.source.name`.
      unlabelled: images to learn from without labels, in the place of `config.unlabelled.name`; its labels and classes
        are not used.
      method: a method of your own, `make(classes_t, *, <settings>) -> mixjax.method.Method`, or the name of one, in the
        place of `config.method`; or several to compare, {label: function or name}, in the place of `config.compare`.
        Settings of a function are its keyword-only arguments; `functools.partial(make, weight=0.5)` sets them.
      progress: True prints how far it is (a line that moves on a terminal; in a notebook or a file a line at each
        phase, and one every ten seconds), False nothing; or a `Progress` of your own.
      changed_code: what to do where the source of a method of your own is another than when the run began: 'refuse'
        to go on, or 'accept' it.

    Returns:
      What was found, which is in `results.json` too.

    Example:
      >>> import mixjax, numpy as np, tempfile
      >>> rng = np.random.default_rng(0)
      >>> labels = np.arange(40) % 2
      >>> images = rng.integers(0, 100, (40, 16, 16), np.uint8) + 100 * labels[:, None, None].astype(np.uint8)
      >>> data = mixjax.Dataset.from_arrays(images, labels, ['dark', 'bright'])
      >>> config = mixjax.config.base()
      >>> config.model.name, config.model.weights = 'glyphnet', 'embedded://glyphnet'
      >>> config.steps, config.batch_size = 8, 8
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     results = mixjax.train.run(config, folder, target=data, progress=False)
      ...     predict = results.model()
      >>> results.kind, results.accuracy.n, predict(images[1]).name
      ('run', 1, 'bright')
    """
    changed: Any = copy.deepcopy(config).unlock()
    makes: dict[str, Make] = {}
    sets: dict[str, given.Given] = {}
    if target is not None:
        _give_data(changed.target, sets, *given.named(target, test))
    require(test is None or target is not None, 'test= goes with target=: the images to test on')
    if source is not None:
        _give_data(changed.source, sets, *given.named(source))
    if unlabelled is not None:
        _give_data(changed.unlabelled, sets, *given.named(unlabelled))
    if method is not None:
        _give_method(changed, makes, method)
    with contextlib.ExitStack() as stack:
        stack.enter_context(given.use(sets))
        stack.enter_context(method_registry.with_functions(makes))
        found = experiment.run(changed, workdir, progress=progress, changed_code=changed_code)
    return Results(
        found, storage.to_place(workdir), {name.removeprefix(method_registry.GIVEN): makes[name] for name in makes}
    )


def _give_data(node: Any, sets: dict[str, given.Given], name: str, data: given.Given) -> None:
    """Let a group of settings name a data set that was given."""
    if name in sets and sets[name].train is not data.train:
        raise UserError(
            f'two of the data sets are called {data.train.name!r}; name one otherwise, as in '
            "mixjax.Dataset.from_arrays(.., name='letters')"
        )
    node.name, node.dir = name, ''
    sets[name] = data


def _give_method(config: Any, makes: dict[str, Make], method: str | Make | Mapping[str, str | Make]) -> None:
    """Let a config name the methods that were given; settings that it has for the same method stay."""

    def node(one: str | Make, before: Any) -> ConfigDict:
        if isinstance(one, str):
            name = one
        else:
            name = method_registry.function_name(one)
            if name.startswith(method_registry.GIVEN) and makes.setdefault(name, one) is not one:
                title = name.removeprefix(method_registry.GIVEN)
                raise UserError(f'two different functions are called {title!r}; rename one of the methods')
        same = isinstance(before, ConfigDict) and before.get('name', '') in ('', name)
        return ConfigDict({**(before.to_dict() if same else {}), 'name': name})

    if isinstance(method, Mapping):
        require(len(method) > 0, 'method={} names no method; give {label: function or name}')
        config.compare = ConfigDict({label: node(one, config.compare.get(label)) for label, one in method.items()})
        config.method = ConfigDict({'name': ''})
        return
    config.method = node(method, config.method)
    config.compare, config.baseline = ConfigDict(), ''


def best(
    folder: str | Path, workdir: str | Path = '', *, minutes: float = 30.0, networks: Sequence[str] = (),
    methods: Sequence[str] = (), unknown: float = 0.0, settings: Mapping[str, object] | None = None,
    progress: bool = True,
) -> Results:  # fmt: skip
    """Search for the best classifier of a folder in the time that there is; the same call goes on after a stop.

    Args:
      folder: a folder with a sub-folder of images for each class.
      workdir: where all of it goes; '' is runs/NAME-best.
      minutes: the time for everything.
      networks: networks to try, each NAME, NAME=WEIGHTS or WEIGHTS; without any, those of today that can be had.
      methods: methods to try: 'probe', and names of methods of fine-tuning; without any, probe, lpft and smile.
      unknown: share of the images of known classes that may be called unknown; 0 calls none so.
      settings: {key: value} of settings for all trials, such as {'image.crop': 128}.
      progress: whether lines are printed.

    Returns:
      What was found: `results.accuracy` to expect, `results.model()` to predict with, `results.report()`.

    Example:
      >>> import mixjax, numpy as np, pathlib, tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as place:
      ...     rng, photos = np.random.default_rng(0), pathlib.Path(place, 'photos')
      ...     for name, grey in {'bright': 180, 'dark': 20}.items():
      ...         (photos / name).mkdir(parents=True)
      ...         for k in range(4):
      ...             pixels = rng.integers(0, 60, (16, 16), np.uint8) + np.uint8(grey)
      ...             Image.fromarray(pixels).save(photos / name / f'{k}.png')
      ...     results = mixjax.best(
      ...         photos, pathlib.Path(place, 'found'), networks=['glyphnet'], methods=['probe'], progress=False
      ...     )
      ...     predict = results.model()
      >>> results.kind, results.accuracy.mean, predict(np.full((16, 16), 200, np.uint8)).name
      ('search', 1.0, 'bright')
    """
    def text(value: object) -> str:
        return ','.join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    given = {'search.minutes': minutes, 'search.networks': tuple(networks), 'search.methods': tuple(methods)}
    given |= {'search.unknown': unknown, 'target.dir': str(folder), **(settings or {})}
    overrides = [(key, text(value)) for key, value in given.items() if value != ()]
    place = storage.resolve_links(storage.to_place(workdir or search.workdir_of(str(folder))))
    found = search.best(overrides, place, say=print if progress else _silent, quiet=not progress)
    return Results(_of_search(found), place)


def _silent(line: str) -> None:
    del line


def _of_search(found: Mapping[str, Any]) -> dict[str, Any]:
    return {'kind': 'search', **found}
