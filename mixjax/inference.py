"""Predictions with what a run left: `mixjax.load('runs/dogs')` is a `Predictor`.

    dogs = mixjax.load('runs/dogs')
    dogs('photo.jpg')                # [('beagle', 0.97), ('basset', 0.02), ..]
    dogs.probabilities(images)       # (n, H, W, C), uint8 or floats from 0 to 1 -> (n, classes)

A photograph is prepared as the run prepared its test images: the same resize, crop and colours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models
from mixjax.config import method_registry
from mixjax.data.datasets import folder_scan
from mixjax.data.feed import augment
from mixjax.data.feed.batches import Images
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.models import preprocessing as own_images
from mixjax.models import weights

Array = jax.Array
Tree = Any
Source = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Predictor:
    """A trained network with its classes and its preprocessing.

    classes: their names. about: all that `model.json` says. rule: how a file becomes a stored image.
    apply: (B, H, W, C) uint8 stored images -> (B, classes) logits, compiled for one batch size.
    batch: that size.
    """

    classes: tuple[str, ...]
    about: dict[str, Any]
    rule: photo.Rule
    apply: Callable[[np.ndarray], Array]
    batch: int

    def read(self, source: Source) -> np.ndarray:
        """One image as the run would have stored it, (side, side, C) uint8.

        source: a file, its bytes, or an array (H, W), (H, W, 1) or (H, W, 3), uint8 or floats from 0 to 1.
        """
        if isinstance(source, np.ndarray):
            return photo.fit(colours(source, self.rule.channels), self.rule)
        data = source if isinstance(source, bytes) else photo.file_bytes(source)
        return photo.read(data, self.rule)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """(n, side, side, C) images as `read` gives them, uint8 or floats from 0 to 1 -> (n, classes)."""
        images = np.asarray(images) if isinstance(images, list | tuple) else images
        self._check_shape(np.shape(images))
        if len(images) == 0:
            return np.zeros((0, len(self.classes)), np.float32)
        out = []
        for start in range(0, len(images), self.batch):
            here = as_uint8(np.asarray(images[start : start + self.batch]))
            # Filled up with repeats: one size, one compilation.
            out.append(np.asarray(self.apply(np.resize(here, (self.batch, *here.shape[1:]))))[: len(here)])
        return np.concatenate(out)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        side, channels = self.rule.side, self.rule.channels
        if len(shape) != 4 or shape[1:] != (side, side, channels):
            hint = '; of a single image give image[None]' if shape == (side, side, channels) else ''
            raise UserError(
                f'images must be of shape (n, {side}, {side}, {channels}), as `read` makes them of a file or an array '
                f'of any size, not {shape}{hint}'
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(n, side, side, C) images as `read` gives them, uint8 or floats from 0 to 1 -> (n, classes)."""
        return np.asarray(jax.nn.softmax(jnp.asarray(self.logits(images)), axis=-1))

    def __call__(self, source: Source, top: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of one image, the likeliest first."""
        try:
            image = self.read(source)
        except (photo.Unreadable, OSError) as error:
            name = source if isinstance(source, str | Path) else 'the image'
            raise UserError(f'{name}: {error}') from error
        return self.ranked(self.probabilities(image[None])[0], top)

    def ranked(self, probabilities: np.ndarray, top: int = 5) -> list[tuple[str, float]]:
        """The `top` likeliest classes of one row of probabilities."""
        order = np.argsort(-probabilities, kind='stable')[:top]
        return [(self.classes[k], float(probabilities[k])) for k in order]

    def stream(self, files: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray | str]]:
        """Each file with its probabilities, or with the reason why it cannot be read; in the files' order."""

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
                rows = iter(self.probabilities(np.stack(good)) if (good := _arrays(images)) else ())
                yield from (
                    (path, image if isinstance(image, str) else next(rows))
                    for path, image in zip(some, images, strict=True)
                )


def _arrays(images: Sequence[np.ndarray | str]) -> list[np.ndarray]:
    return [image for image in images if not isinstance(image, str)]


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Pixels as uint8: of uint8, or of floats from 0 to 1. Anything else could mean several things and is refused."""
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f'pixels must be uint8 (0 to 255) or floats from 0 to 1, not {image.dtype}')
    # Written so that NaN is refused too.
    if image.size and not (image.min() >= 0 and image.max() <= 1):
        raise UserError(
            f'pixels that are floats must be from 0 to 1, and these are from {image.min():.4g} to {image.max():.4g}; '
            'scale them, or give uint8 (0 to 255)'
        )
    return np.rint(image * 255.0).astype(np.uint8)


def colours(image: np.ndarray, channels: int) -> np.ndarray:
    """An array as uint8 (H, W, channels): grey is repeated, and colours become grey by ITU-R 601."""
    shape = image.shape
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
        raise UserError(f'an image must be of shape (H, W), (H, W, 1) or (H, W, 3), not {shape}')
    image = as_uint8(image)
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return photo.grey(image)


def load(workdir: str | Path, *, batch: int = 64) -> Predictor:
    """The network that a run left in its work directory, ready to predict.

    Args:
      workdir: of one run; of a comparison, the folder of one of its methods.
      batch: how many images are predicted at once.
    """
    loaded = weights.load(str(workdir))
    if not loaded.own:
        raise UserError(f'{workdir} is no run of mixjax: its model.safetensors has the tensors of another library')
    about, image = _described(workdir, loaded.about)
    geometry = augment.Geometry(image['crop'], image.get('pad', 0), False, tuple(image['mean']), tuple(image['std']))
    rule = photo.check(photo.Rule(image['resize'], image['fit'], image['interpolation'], True, about['channels']))
    net = models.build(about['model'], dtype='bfloat16' if about.get('dtype') == 'bfloat16' else 'float32')
    heads = loaded.variables['params'].get('heads', {})
    shown = jnp.zeros((1, geometry.crop, geometry.crop, max(rule.channels, len(geometry.mean))))
    widths = {name: len(head['bias']) for name, head in heads.items()}
    wanted = jax.eval_shape(lambda key: net.init(key, shown, widths), jax.random.key(0))
    weights.fit(str(workdir), loaded.variables, wanted)
    predict = predictor_of(workdir, about, heads)
    variables = jax.tree.map(jnp.asarray, loaded.variables)

    @jax.jit
    def apply(variables: Tree, images: Array) -> Array:
        return predict(net.apply(variables, augment.centre(images, geometry), train=False)[0])

    return Predictor(tuple(about['classes']), about, rule, lambda images: apply(variables, jnp.asarray(images)), batch)


def _described(workdir: Any, said: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `model.json` says, and the settings of images; it may be any file."""
    about = {'channels': 1, 'method': {}, **said}
    try:
        if not isinstance(about['model'], str) or not about['classes']:
            raise ValueError('its network has no name, or no classes')
        if about['model'] not in models.names():
            raise UserError(f'{workdir}: {models.unknown(about["model"])}')
        if type(about['channels']) is not int or not isinstance(about['method'], dict):
            raise ValueError('its channels or its method cannot be')
        # What a run recorded before it knew of a setting is what its network was published with.
        own, found = own_images.of_network(about['model']), own_images.sound(about['image'])
        more = {'fit': about['image'].get('fit', 'short'), 'pad': about['image'].get('pad', 0)}
        if more['fit'] not in photo.FITS or type(more['pad']) is not int or not 0 <= more['pad'] <= own_images.LARGEST:
            raise ValueError('its image.fit or image.pad cannot be')
        image = {**own, **found, **more}
        colours = len(image['mean'])
        if colours != len(image['std']) or colours not in (1, about['channels']) and about['channels'] != 1:
            raise ValueError('its colours do not fit one another')
        if image['crop'] > image['resize'] + 2 * more['pad']:
            raise ValueError('its image.crop is larger than the images')
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{workdir}: model.json is damaged ({error}); give a run folder') from None
    return about, image


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

    found: (file, its path from its class folder on; from the folder that was given on, where it lies in none).
    others: files that are no images. irregular: pipes, sockets and devices.
    """

    found: list[tuple[Path, Path]]
    others: int
    irregular: int


def files(given: Iterable[str | Path]) -> Files:
    """All images of some files and folders.

    A file that is named is taken whatever its name. Folders are searched as training searches them: the same names are
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


# --- the run's own test set -------------------------------------------------------------------------------------------


def test_set(workdir: str | Path) -> Images:
    """The images that the model of a run was tested on: those of its first seed."""
    from mixjax import config as config_lib
    from mixjax.data.datasets import resolve as sets_lib
    from mixjax.data.labelled import run_data
    from mixjax.rundir import files as files_of
    from mixjax.train import input_digests, seeds

    folder = storage.of(workdir)
    config = config_lib.from_data(files_of.read_json(folder / 'config.json'))
    # Neither the pretrained weights nor the source data are needed, so neither is fetched.
    lost = None if config.synthetic.per_class else sets_lib.missing(config.target, config.data_dir)
    if lost:
        raise UserError(lost)
    sets = run_data.chosen_sets(config, run_data.load(config, config.target), None)
    input_digests.same_data(sets, folder)
    if sets.test is not None:
        return seeds.everything(sets.test)
    return seeds.remaining(sets, run_data.drawn(config, sets, config.seed).known)
