"""The network that is exported, its images for the comparison, and its classifier with the temperature folded in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import inference, models
from mixjax.data.feed import augment
from mixjax.data.feed.batches import Images, Lazy
from mixjax.errors import UserError
from mixjax.export.paths import public
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.inference import Predictor
from mixjax.method import Method
from mixjax.models import weights
from mixjax.rundir import files

Array = jax.Array
Tree = Any
IMAGES = 64  # that a written file is compared on
RANGES = 100  # that the ranges of 8-bit numbers are taken from
PARTS = ('', 'winner', 'probe')  # of a search, the folders of its runs; a run is its own


class Samples(NamedTuple):
    """Images to compare on.

    Attributes:
      image: (n, side, side, C) uint8, as the run stores them.
      label: (n,) int; None where the images have no class.
      origin: 'test images', 'training images' or 'generated images'.
    """

    image: np.ndarray
    label: np.ndarray | None
    origin: str


class Exported(NamedTuple):
    """A trained network that is to be written.

    Attributes:
      predictor: the network, computing in float32 whatever the run did.
      folder: where it was read from.
      samples: images to compare on.
      probabilities: (n, classes), what the network says of the samples; numbers, of a regression.
      facts: those of the run that there are: `config`, `results`, `best`, `env`, as in the files of these names.
    """

    predictor: Predictor
    folder: str
    samples: Samples
    probabilities: np.ndarray
    facts: Mapping[str, Any]

    @property
    def calibration(self) -> np.ndarray:
        """Return up to a hundred training images, as they are stored; where there are none, the samples."""
        folder = folder_of(self.folder)
        if folder is not None:
            with contextlib.suppress(UserError):
                return chosen(training_images(folder), RANGES)[0]
        return self.samples.image

    @property
    def about(self) -> dict[str, Any]:
        """The contents of `model.json`."""
        return self.predictor.about


def read(workdir: str, *, images: int = IMAGES, method: Callable[..., Method] | None = None) -> Exported:
    """Read a trained network for an export.

    Args:
      workdir: as `mixjax.load` takes it.
      images: number of images to compare on, at most.
      method: as `mixjax.load` takes it.
    """
    predictor = inference.load(workdir, method=method)
    network = predictor.network._replace(net=models.build(predictor.about['model']))
    predictor = dataclasses.replace(predictor, network=network, about=public(predictor.about))
    folder = folder_of(workdir)
    some = samples(folder, predictor, images)
    facts = {} if folder is None else facts_of(folder)
    return Exported(predictor, workdir, some, predictor.values(some.image), facts)


def folder_of(workdir: str) -> Place | None:
    """Return the folder that a network was read from; None if it was a file, or an embedded network."""
    if workdir.startswith(weights.EMBEDDED_PREFIX):
        return None
    place = storage.to_place(workdir)
    return place if storage.is_dir(place) else None


def facts_of(folder: Place) -> dict[str, Any]:
    """Return the contents of a run's files; of a search, of those of the run that it kept."""
    found: dict[str, Any] = {}
    for part in reversed(PARTS):
        for name in ('config', 'results', 'best', 'env', 'merge'):
            if storage.is_file(folder / part / f'{name}.json'):
                found[name] = files.read_json(folder / part / f'{name}.json')
    with contextlib.suppress(UserError):  # the data are no longer there
        label = training_images(folder).label
        if label.ndim == 1:
            found['labels per class'] = np.bincount(label, minlength=1).tolist()
    return found


def training_images(folder: Place) -> Images:
    """Return the labelled images that a network learned from."""
    found = inference.training_set(str(folder))
    return Images(Lazy(found.data.read, found.rows), found.data.labels[found.rows])


def test_images(folder: Place) -> Images:
    """Return the images that a network was tested on."""
    return inference.test_set(inference.run_folder(str(folder)))


def chosen(found: Images, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return so many of the images, from all of them, and their labels."""
    rows = np.unique(np.linspace(0, len(found.label) - 1, min(most, len(found.label))).astype(int))
    return np.asarray(found.image[rows]), found.label[rows]


def samples(folder: Place | None, predictor: Predictor, most: int) -> Samples:
    """Return images of the run's test part, else of those that it learned from, else generated ones."""
    loads = {'test images': test_images, 'training images': training_images}
    for origin, load in loads.items() if folder is not None else ():
        try:
            found = load(folder)  # pyright: ignore[reportArgumentType]
        except UserError:  # the run has no such part, or its data are no longer there
            continue
        image, label = chosen(found, most)
        return Samples(image, label if label.ndim == 1 else None, origin)
    side, channels = predictor.rule.side or predictor.network.geometry.crop, predictor.rule.channels
    return Samples(smooth_noise(most, side, channels), None, 'generated images')


def smooth_noise(count: int, side: int, channels: int) -> np.ndarray:
    """Return images of blurred noise, (count, side, side, channels) uint8: the same ones every time."""
    coarse = np.random.RandomState(0).rand(count, 4, 4, channels)
    image = jax.image.resize(jnp.asarray(coarse), (count, side, side, channels), 'cubic')
    return np.clip(np.rint(np.asarray(image) * 255), 0, 255).astype(np.uint8)


def one_head(exported: Exported, form: str) -> Tree:
    """Return the variables with the head `target` alone, whose logits need nothing else to become what a user sees.

    A temperature divides the head; the units of numbers are multiplied into it.

    Args:
      exported: the network.
      form: its name, for the error.
    """
    predictor, variables = exported.predictor, exported.predictor.network.variables
    heads = variables['params']['heads']
    if set(heads) != {'target'}:
        raise UserError(
            f'{exported.folder}: the method {exported.about["method"].get("name", "")} predicts from more than one '
            f'linear classifier ({", ".join(sorted(heads))}), which the form {form} has no place for; '
            'use --to=onnx or --to=stablehlo'
        )
    if predictor.network.tta:
        raise UserError(
            f'{exported.folder} averages over views of an image (config.image.tta={predictor.network.tta}), which the '
            f'form {form} has no place for; use --to=onnx or --to=stablehlo'
        )
    head = {name: np.asarray(value) for name, value in heads['target'].items()}
    head = {name: value / np.float32(predictor.temperature) for name, value in head.items()}
    if predictor.scale is not None:
        mean, std = (np.asarray(values, np.float32) for values in predictor.scale)
        head = {'kernel': head['kernel'] * std, 'bias': head['bias'] * std + mean}
    return {**variables, 'params': {**variables['params'], 'heads': {'target': head}}}


def inputs(exported: Exported) -> np.ndarray:
    """Return the samples as the network sees them: normalised crops, (n, crop, crop, C) float32."""
    return np.asarray(augment.centred(jnp.asarray(exported.samples.image), exported.predictor.network.geometry))
