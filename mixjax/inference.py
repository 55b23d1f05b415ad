"""Predictions with what a run left: `mixjax.load('runs/dogs')` is a `Predictor`.

    dogs = mixjax.load('runs/dogs')
    dogs('photo.jpg')                     # [('beagle', 0.97), ('basset', 0.02), ..]
    dogs(['one.jpg', 'photos/'])          # a list of these, one for each image
    dogs.probabilities(images)            # (n, H, W, C), uint8 or floats from 0 to 1 -> (n, classes)
    dogs.features(['one.jpg', 'two.jpg'])  # (2, d), what the classifier sees

A network of `mixjax best` has a temperature, which its probabilities are calibrated with, and may have a threshold: an
image whose likeliest class is less probable is called `unknown`.

Of a run with several labels an image (`config.target.task`) a call gives all labels whose probability is above 0.5; of
one with numbers, `ages.numbers(images)` gives them.

A photograph is prepared as the run prepared its test images: the same resize, crop and colours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models, tasks
from mixjax.config import method_registry
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import folder_scan
from mixjax.data.datasets.folder import NAME as FOLDER
from mixjax.data.feed import augment, specification, tta
from mixjax.data.feed.batches import Images
from mixjax.data.labelled.run_data import Sets
from mixjax.data.pixels import arrays, photo
from mixjax.errors import UserError, require
from mixjax.host import storage
from mixjax.method import Method
from mixjax.models import preprocessing as own_images
from mixjax.models import weights
from mixjax.models.net import Net, Out
from mixjax.tasks import CLASSIFICATION, Scale, Task

if TYPE_CHECKING:
    from PIL.Image import Image

Array = jax.Array
Tree = Any
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]] | np.ndarray[Any, np.dtype[np.floating[Any]]] | jax.Array
Source: TypeAlias = 'str | Path | bytes | Pixels | Image'


UNKNOWN = 'unknown'
SEARCHED = ('winner', 'probe')  # runs of a search (`mixjax best`) whose network may be that of the search


class Ranked(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class Prediction(list[Ranked]):
    """The likeliest classes of one image, the likeliest first: a list of `(name, probability)`.

    Of a network for several labels an image it has those above 0.5, and may be empty.

    file: where the image was read from; None where it was no file.

    Example:
      >>> found = Prediction([Ranked('beagle', 0.75), Ranked('basset', 0.25)])
      >>> found.name, found.probability
      ('beagle', 0.75)
      >>> found[1].name
      'basset'
    """

    file: Path | None = None

    @property
    def name(self) -> str:
        """The likeliest class."""
        return self._first().name

    @property
    def probability(self) -> float:
        """The probability of the likeliest class."""
        return self._first().probability

    def _first(self) -> Ranked:
        require(bool(self), 'no label of the image has a probability above 0.5')
        return self[0]


class Network(NamedTuple):
    """A network with everything that is between a stored image and its logits, as pure functions.

    Attributes:
      net: the network.
      variables: its variables.
      predict: forward pass -> the logits of the classes.
      geometry: crop and colours.
      tta: the views of an image, as `config.image.tta`.
    """

    net: Net
    variables: Tree
    predict: Callable[[Out], Array]
    geometry: augment.Geometry
    tta: str

    def forward(self, variables: Tree, inputs: Array) -> Out:
        """Return the forward pass of normalised crops, (B, crop, crop, C)."""
        return self.net.apply(variables, inputs, train=False)[0]

    def logits(self, variables: Tree, images: Array) -> Array:
        """Return the logits of stored images: (B, H, W, C) uint8 -> (B, classes)."""
        return tta.logits(
            lambda inputs: self.predict(self.forward(variables, inputs)), images, self.geometry, self.tta
        )  # fmt: skip

    def features(self, variables: Tree, images: Array) -> Array:
        """Return what the classifier sees of the centres of stored images: (B, H, W, C) uint8 -> (B, d)."""
        return self.forward(variables, augment.centre(images, self.geometry)).features.astype(jnp.float32)


@dataclass(frozen=True)
class Predictor:
    """A trained network with its classes and its preprocessing; `mixjax.load` makes one.

    classes: their names. about: all that `model.json` says. rule: how a file becomes a stored image.
    network: the network, for gradients and exports. batch: how many images are predicted at once.
    task: what the classes and the logits are. scale: the units of numbers.
    temperature: the logits are divided by it before the softmax.
    threshold: the probability that the likeliest class must have, or the image is `unknown`; 0 for any.
    """

    classes: tuple[str, ...]
    about: dict[str, Any]
    rule: photo.Rule
    network: Network
    batch: int
    task: Task = CLASSIFICATION
    scale: Scale | None = None
    temperature: float = 1.0
    threshold: float = 0.0

    @overload
    def __call__(self, source: Source, top: int = 5) -> Prediction: ...
    @overload
    def __call__(self, source: Sequence[Source], top: int = 5) -> list[Prediction]: ...
    def __call__(self, source: Source | Sequence[Source], top: int = 5) -> Prediction | list[Prediction]:
        """Predict the class of one image, or of each image of a list.

        Args:
          source: the path of a file, its bytes, an image of Pillow, or an array (H, W), (H, W, 1) or (H, W, 3), uint8
            or floats from 0 to 1; or a list of these. In a list a folder stands for all images in it.
          top: how many classes to give.

        Returns:
          The `top` likeliest classes, the likeliest first; of a list a list of these. Of a network for several labels
          an image all labels with a probability above 0.5.

        Example:
          >>> import mixjax, numpy as np
          >>> letters = mixjax.load('embedded://glyphnet')
          >>> image = np.zeros((16, 16), np.uint8)
          >>> image[1:15, 7:9] = 255  # a vertical stroke
          >>> [len(letters(image)), len(letters([image, image], top=1))]
          [5, 2]
        """
        if isinstance(source, list | tuple):
            some = self._expanded(source)
            rows = iter(self.probabilities([image for image, _ in some])) if some else iter(())
            return [self._named(row, top, file) for row, (_, file) in zip(rows, some, strict=True)]
        one: Any = source
        row = self.probabilities([self._read(one)])[0]
        return self._named(row, top, Path(one) if isinstance(one, str | Path) else None)

    def probabilities(self, images: Source | Sequence[Source]) -> Floats:
        """The probabilities of all classes.

        Args:
          images: what a call takes; or an array (n, side, side, C) of stored images, as `read` gives them, uint8 or
            floats from 0 to 1.

        Returns:
          (n, classes) float32, n = 1 for one image; classes in the order of `classes`.
        """
        if self.task.scaled:
            raise UserError(
                f'this network predicts numbers ({", ".join(self.classes[:5])}), which have no probabilities; '
                'predictor.numbers(images) gives them'
            )
        return self.values(images)

    def numbers(self, images: Source | Sequence[Source]) -> Numbers:
        """The numbers that a network for regression predicts, in the units of its labels.

        Args:
          images: as in `probabilities`.

        Returns:
          (n, outputs) float64, n = 1 for one image; outputs in the order of `classes`, which are their names.
        """
        if not self.task.scaled:
            raise UserError(
                f'this network predicts {"labels" if self.task.rows else "classes"} and no numbers; '
                'predictor.probabilities(images) gives their probabilities'
            )
        return self.values(images)

    def values(self, images: Source | Sequence[Source]) -> np.ndarray:
        """Compute what a user sees: the numbers of a network for regression, else the probabilities."""
        return self.task.values(self.logits(images) / np.float32(self.temperature), self.scale)

    def logits(self, images: Source | Sequence[Source]) -> Floats:
        """Compute the outputs of the classifier before the softmax; see `probabilities`.

        With `config.image.tta` they are the logarithms of the mean probabilities over the views.
        """
        return self._batched(self._compiled[0], images)

    def features(self, images: Source | Sequence[Source]) -> Floats:
        """Compute the inputs of the classifier: the pooled last map of the network, for the centre crop.

        Args:
          images: as in `probabilities`.

        Returns:
          (n, d) float32.

        Example:
          >>> import mixjax, numpy as np
          >>> mixjax.load('embedded://glyphnet').features(np.zeros((3, 16, 16, 1), np.uint8)).shape
          (3, 64)
        """
        return self._batched(self._compiled[1], images)

    @cached_property
    def _compiled(self) -> tuple[Callable[[np.ndarray], Array], Callable[[np.ndarray], Array]]:
        """The functions of `logits` and `features`; variables are an argument, or they would be constants in both."""
        network, variables = self.network, self.network.variables
        logits, features = jax.jit(network.logits), jax.jit(network.features)
        return (
            lambda images: logits(variables, jnp.asarray(images)),
            lambda images: features(variables, jnp.asarray(images)),
        )

    @cached_property
    def programs(self) -> dict[Any, Callable]:
        """A cache of further compiled programs of this network."""
        return {}

    def read(self, source: Source) -> np.ndarray:
        """One image as the run would have stored it, (side, side, C) uint8.

        source: a file, its bytes, an image of Pillow, or an array (H, W), (H, W, 1) or (H, W, 3), uint8 or floats from
          0 to 1.
        """
        if isinstance(source, str | Path):
            return photo.read(photo.file_bytes(source), self.rule)
        if isinstance(source, bytes):
            return photo.read(source, self.rule)
        if arrays.is_picture(source):
            return photo.fit(arrays.of_picture(source, self.rule.channels), self.rule)
        return photo.fit(arrays.colours(np.asarray(source), self.rule.channels), self.rule)

    def _read(self, source: Source) -> np.ndarray:
        """`read`, with errors that name the file."""
        if isinstance(source, str | Path) and storage.is_dir(storage.to_place(source)):
            raise UserError(f'{source} is a folder; give it in a list, [{str(source)!r}], for all images in it')
        try:
            return self.read(source)
        except (photo.Unreadable, OSError) as error:
            name = source if isinstance(source, str | Path) else 'the image'
            raise UserError(f'{name}: {error}') from error

    def _expanded(self, given: Sequence[Any]) -> list[tuple[Any, Path | None]]:
        """(image, its file or None) of a list, in which folders stand for their images."""
        out: list[tuple[Any, Path | None]] = []
        for one in given:
            folder = isinstance(one, str | Path) and storage.is_dir(storage.to_place(one))
            if folder:
                inside = [path for path, _ in files([one]).found]
                require(bool(inside), f'there is no image in {one}')
                out += [(path, path) for path in inside]
            else:
                out.append((one, Path(one) if isinstance(one, str | Path) else None))
        return out

    def _blocks(self, images: Any) -> Iterator[np.ndarray]:
        """Stored images, at most `batch` of them at once."""
        if not (isinstance(images, list | tuple | str | Path | bytes) or arrays.is_picture(images)):
            self._check_shape(np.shape(images))
            for start in range(0, len(images), self.batch):
                yield arrays.as_uint8(np.asarray(images[start : start + self.batch]))
            return
        some = self._expanded(images if isinstance(images, list | tuple) else [images])
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(some), self.batch):
                yield np.stack(list(pool.map(self._read, [one for one, _ in some[start : start + self.batch]])))

    def _batched(self, function: Callable[[np.ndarray], Array], images: Any) -> Floats:
        """Apply a compiled function to all images, a batch at a time."""
        out = []
        for block in self._blocks(images):
            # Filled up with repeats: one size, one compilation.
            out.append(np.asarray(function(np.resize(block, (self.batch, *block.shape[1:]))))[: len(block)])
        if not out:
            none = np.zeros((self.batch, self.rule.side, self.rule.side, self.rule.channels), np.uint8)
            return np.asarray(function(none))[:0]
        return np.concatenate(out)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        side, channels = self.rule.side, self.rule.channels
        if len(shape) != 4 or shape[1:] != (side, side, channels):
            hint = '; of a single image give image[None]' if shape == (side, side, channels) else ''
            raise UserError(
                f'images must be of shape (n, {side}, {side}, {channels}), as `read` makes them of a file or an array '
                f'of any size, not {shape}{hint}'
            )

    def ranked(self, probabilities: np.ndarray, top: int = 5) -> Prediction:
        """The `top` likeliest classes of one row of probabilities; of several labels an image all above 0.5.

        If none reaches the threshold, `unknown` comes before them, with the probability that the likeliest is wrong.
        """
        order = np.argsort(-probabilities, kind='stable')
        order = [k for k in order if probabilities[k] > 0.5] if self.task.rows else order[:top]
        found = Prediction(Ranked(self.classes[k], float(probabilities[k])) for k in order)
        if self.is_unknown(probabilities):
            found.insert(0, Ranked(UNKNOWN, 1 - float(probabilities.max())))
        return found

    def is_unknown(self, probabilities: np.ndarray) -> bool:
        """Return whether no class of one row of probabilities reaches the threshold."""
        return not self.task.rows and bool(probabilities.max() < self.threshold)

    def as_data(self, values: np.ndarray, top: int = 5) -> dict[str, Any]:
        """Return the prediction of one image as plain data, as `mixjax predict --json` prints it.

        Args:
          values: its row of probabilities, or of numbers.
          top: how many classes to give.

        Returns:
          {'top': [{'class', 'probability'}, ..]}, {'labels': [..], 'probabilities': {name: p}} or
          {'numbers': {name: number}}.
        """
        if self.task.scaled:
            return {'numbers': dict(zip(self.classes, map(float, values), strict=True))}
        if self.task.rows:
            every = dict(zip(self.classes, map(float, values), strict=True))
            return {'labels': [name for name, _ in self.ranked(values)], 'probabilities': every}
        return {'top': [{'class': name, 'probability': p} for name, p in self.ranked(values, top)]}

    def _named(self, probabilities: np.ndarray, top: int, file: Path | None) -> Prediction:
        found = self.ranked(probabilities, top)
        found.file = file
        return found

    def stream(self, files: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray | str]]:
        """Each file with its probabilities or numbers, or the reason why it cannot be read; in the files' order."""

        def attempt(path: Path) -> np.ndarray | str:
            try:
                return self.read(path)
            except photo.Unreadable as error:
                return str(error)
            except OSError as error:
                return error.strerror or str(error)

        queue = iter(files)
        with ThreadPoolExecutor() as pool:
            while some := list(islice(queue, self.batch)):
                images = list(pool.map(attempt, some))
                rows = iter(self.values(np.stack(good)) if (good := _arrays(images)) else ())
                yield from (
                    (path, image if isinstance(image, str) else next(rows))
                    for path, image in zip(some, images, strict=True)
                )


def _arrays(images: Sequence[np.ndarray | str]) -> list[np.ndarray]:
    return [image for image in images if not isinstance(image, str)]


def load(
    workdir: str | Path, *, batch: int = 64, method: Callable[..., Method] | None = None
) -> Predictor:  # fmt: skip
    """Load the network that a run left in its work directory, ready to predict.

    Args:
      workdir: of one run; of a comparison, the folder of one of its methods. Also a file that mixjax wrote,
        `model.safetensors` with its `model.json`, and `embedded://glyphnet`.
      batch: how many images are predicted at once.
      method: the function that the run was trained with, where it was one of a notebook (`mixjax.train.run(..,
        method=make)`) and is needed to predict.

    Returns:
      The predictor: call it with an image.

    Example:
      >>> import mixjax
      >>> letters = mixjax.load('embedded://glyphnet')
      >>> len(letters.classes), letters.rule.side
      (160, 16)
    """
    loaded = weights.load(str(workdir))
    if not loaded.own:
        raise UserError(f'{workdir} was not written by mixjax: model.safetensors has the tensors of another library')
    about, image = described(workdir, loaded.about)
    geometry = augment.Geometry(image['crop'], image.get('pad', 0), False, tuple(image['mean']), tuple(image['std']))
    rule = photo.check(photo.Rule(image['resize'], image['fit'], image['interpolation'], True, about['channels']))
    net = models.build(about['model'], dtype='bfloat16' if about.get('dtype') == 'bfloat16' else 'float32')
    shown = jnp.zeros((1, geometry.crop, geometry.crop, max(rule.channels, len(geometry.mean))))
    variables, _ = weights.into(str(workdir), net, about['model'], shown, loaded)
    with method_registry.with_functions(_given(workdir, about, method)):
        predict = predictor_of(workdir, about, variables['params'].get('heads', {}))

    network = Network(net, variables, predict, geometry, image['tta'])
    return Predictor(
        tuple(about['classes']), about, rule, network, batch, *task_of(workdir, about), *calibrated(workdir, about),
    )  # fmt: skip


def calibrated(workdir: Any, about: Mapping[str, Any]) -> tuple[float, float]:
    """Read temperature and threshold of `model.json`; it may be any file."""
    rule = about.get('unknown', {})
    found: dict[str, Any] = {'temperature': about.get('temperature', 1.0)}
    found['threshold'] = rule.get('threshold', 0.0) if isinstance(rule, dict) else rule
    for name, least, most in (('temperature', 1e-3, 1e3), ('threshold', 0, 1)):
        if type(found[name]) not in (int, float) or not least <= found[name] <= most:
            raise UserError(f'{workdir}: model.json is damaged (its {name} cannot be); give a run folder')
    return float(found['temperature']), float(found['threshold'])


def task_of(workdir: Any, about: Mapping[str, Any]) -> tuple[Task, Scale | None]:
    """Read the task of `model.json` and the units of its numbers; it may be any file."""
    name, found = about.get('task', ''), about.get('scale', {})
    if not isinstance(name, str) or name and name not in tasks.NAMES:
        raise UserError(f'{workdir}: model.json is of a task {str(name)[:80]!r} that this mixjax does not know')
    task = tasks.of(name)
    if not task.scaled:
        return task, None
    try:
        mean, std = (np.array(found[key], np.float64) for key in ('mean', 'std'))
        fits = mean.shape == std.shape == (len(about['classes']),)
        good = fits and np.isfinite([mean, std]).all() and (std > 0).all()
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f'{workdir}: model.json is damaged (its scale cannot be); give a run folder')
    return task, Scale(mean, std)


def _given(workdir: Any, about: Mapping[str, Any], method: Callable[..., Method] | None) -> dict[str, Any]:
    """{name: function} of the method that was given for a run."""
    if method is None:
        return {}
    name = about['method'].get('name', '')
    method_registry.function_name(method)
    if not str(name).startswith(method_registry.GIVEN):
        raise UserError(f'{workdir} was trained with the method {name}, which needs no method=; leave it out')
    return {name: method}


def described(workdir: Any, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read `model.json` and the settings of images; it may be any file."""
    about = {'channels': 1, 'method': {}, **said}
    try:
        if not isinstance(about['model'], str) or not about['classes']:
            raise ValueError('its network has no name, or no classes')
        if about['model'] not in models.names():
            raise UserError(f'{workdir}: {models.unknown(about["model"])}')
        if type(about['channels']) is not int or not isinstance(about['method'], dict):
            raise ValueError('its channels or its method are invalid')
        # What a run recorded before it knew of a setting is what its network was published with.
        own, found = models.image_settings(about['model']), own_images.checked(about['image'])
        more = {'fit': about['image'].get('fit', 'short'), 'pad': about['image'].get('pad', 0)}
        if more['fit'] not in photo.FITS or type(more['pad']) is not int or not 0 <= more['pad'] <= own_images.LARGEST:
            raise ValueError('its image.fit or image.pad is invalid')
        more['tta'] = _sound_tta(about['image'].get('tta', ''))
        image = {**own, **found, **more}
        colours = len(image['mean'])
        if colours != len(image['std']) or colours not in (1, about['channels']) and about['channels'] != 1:
            raise ValueError('its colours do not fit one another')
        if image['crop'] > image['resize'] + 2 * more['pad']:
            raise ValueError('its image.crop is larger than the images')
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{workdir}: model.json is damaged ({error}); give a run folder') from None
    return about, image


def _sound_tta(text: Any) -> str:
    """Return `config.image.tta` as a file has it; raise `ValueError` for anything that it cannot be."""
    if not isinstance(text, str):
        raise ValueError('its image.tta is no text')
    try:
        specification.views(text)
    except UserError as error:
        raise ValueError(f'its image.tta cannot be: {error}') from error
    return text


def predictor_of(workdir: Any, about: dict[str, Any], heads: Tree) -> Callable[..., Array]:
    """From a forward pass to the target's logits: the one head there is, or what the run's method makes of several."""
    if set(heads) == {'target'}:
        if len(heads['target']['bias']) != len(about['classes']):
            raise UserError(
                f'{workdir}: model.json names {len(about["classes"])} classes, and the network knows others'
            )
        return lambda out: out.logits['target']
    node = {key: tuple(v) if isinstance(v, list) else v for key, v in about['method'].items()}
    if not isinstance(node.get('name'), str):
        raise UserError(f'{workdir}: model.json is damaged (it names no method); give a run folder')
    try:
        return method_registry.build(node, len(about['classes']), f'{workdir}/model.json').predict
    except UserError as error:
        if error.__cause__ is None:
            raise
        raise UserError(f'{workdir}: the method of model.json cannot be made ({error})') from error


# --- files and folders ------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """Image files, and how many other files were left out.

    found: (file, its path from its class folder on; or from the folder that was given, if it is in no class folder).
    others: files that are not images. irregular: pipes, sockets and devices.
    """

    found: list[tuple[Path, Path]]
    others: int
    irregular: int


def files(given: Iterable[str | Path]) -> Files:
    """All images of some files and folders.

    A file that is named is read, with any ending. Folders are searched as training searches them: the same names are
    hidden, links are followed, each real folder once.
    """
    found, others, irregular = [], 0, 0
    for one in map(Path, given):
        if one.is_file():
            found.append((one, Path(one.name)))
        elif one.is_dir():
            inside, walked = folder_scan.everything(one)
            others += walked.others.total()
            irregular += walked.irregular
            found += [(one / path, below) for path, below in inside]
        else:
            raise UserError(f'there is no file or folder {one}')
    return Files(found, others, irregular)


def label_of(below: Path, classes: Sequence[str]) -> str | None:
    """The class that an image's folders name: the outermost one, as in training, or else the innermost that is a class.

    '/' in a class's name is '_' in a folder's.
    """
    folders = {unicodedata.normalize('NFC', name.replace('/', '_')): name for name in classes}
    parts = [unicodedata.normalize('NFC', part) for part in below.parts[:-1]]
    return next((folders[part] for part in (*parts[:1], *reversed(parts)) if part in folders), None)


# --- the images of a run ----------------------------------------------------------------------------------------------


def test_set(workdir: str | Path) -> Images:
    """The images that the model of a run was tested on: those of its first seed."""
    from mixjax.data.labelled import run_data, splits
    from mixjax.train import seeds

    place = storage.to_place(workdir)
    if not (place / 'config.json').exists():
        raise UserError(f'{workdir} has no config.json, which names the images that a run was tested on; give images')
    config, sets = open_data(place)
    if config.target.test == splits.NOTHING:
        raise UserError(f'{workdir} was tested on nothing (config.target.test=none); give images')
    if sets.test is not None:
        return seeds.all_images(sets.test)
    return seeds.undrawn_images(sets, run_data.draw_rows(config, sets, config.seed).known)


def validation_set(workdir: str | Path) -> Images | None:
    """The images of a run's validation part, that of its first seed; None if it had none."""
    from mixjax.data.labelled import run_data
    from mixjax.train import seeds

    config, sets = open_data(run_folder(workdir))
    if sets.val is not None:
        return seeds.all_images(sets.val)
    rows = run_data.draw_rows(config, sets, config.seed).val
    return seeds.subset(sets.train, rows) if len(rows) else None


class Learned(NamedTuple):
    """The labelled images that a model learned from.

    Attributes:
      data: their data set.
      rows: their rows in it.
      folder: the folder that the names of the data set's examples count from; '' where they are no files.
    """

    data: Dataset
    rows: np.ndarray
    folder: str


def training_set(workdir: str | Path) -> Learned:
    """The labelled images that the model of a run, or of a search by `mixjax best`, learned from.

    Of a run with several seeds they are those of the first one, whose network is the model.
    """
    from mixjax.data.labelled import run_data

    config, sets = open_data(run_folder(workdir))
    where = config.target.dir if config.target.name == FOLDER else ''
    return Learned(sets.train, run_data.draw_rows(config, sets, config.seed).labelled, where)


def run_folder(workdir: str | Path) -> storage.Place:
    """Return the folder with the config of a model: the work directory, or of a search that of its run."""
    from mixjax.rundir import files as files_of

    text = str(workdir).removesuffix('/model.safetensors')
    if '://' not in text or text.startswith(storage.STORE):
        place = storage.to_place(text)
        if (place / 'config.json').exists():
            return place
        about = files_of.read_json(place / 'model.json') if (place / 'model.json').exists() else None
        inner = about.get('run') if isinstance(about, dict) else None
        if inner in SEARCHED and (place / inner / 'config.json').exists():
            return place / inner
    raise UserError(f'{workdir} has no config.json, which names the images that a network learned from')


def open_data(workdir: storage.Place) -> tuple[Any, Sets]:
    """Return the config of a run and its target data set, which is the one that the run was trained on.

    Neither the pretrained weights nor the source data are needed, so neither is fetched.
    """
    from mixjax import config as config_lib
    from mixjax.data.datasets import resolve as sets_lib
    from mixjax.data.labelled import run_data
    from mixjax.rundir import files as files_of
    from mixjax.train import input_digests

    config = config_lib.from_data(files_of.read_json(workdir / 'config.json'))
    lost = None if config.synthetic.per_class else sets_lib.missing(config.target, config.data_dir)
    if lost:
        raise UserError(lost)
    if config.target.splits and (workdir / 'splits.json').exists():
        with config.unlocked():  # the file that the config names may be gone, and the run has a copy
            config.target.splits = str(workdir / 'splits.json')
    sets = run_data.chosen_sets(config, run_data.load(config, config.target), None)
    input_digests.same_data(sets, workdir)
    return config, sets
