"""Runs an exported file: from photographs to probabilities with numpy and onnxruntime, without JAX.

    from mixjax.export import engine

    dogs = engine.open_onnx('model.onnx')
    dogs.probabilities(['photo.jpg', 'other.png'])  # (2, classes)

Everything that it needs is in the file, also the preprocessing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.data.pixels import arrays, photo
from mixjax.errors import UserError
from mixjax.host import storage, untrusted

MOST_BYTES = 1 << 31  # of a file
TOGETHER = 8  # images of one size that are predicted at once
PIXELS = 1 << 24  # of them together


@dataclass(frozen=True)
class Engine:
    """A classifier that was read from a file.

    classes: their names; those of the numbers, of a network for regression.
    threshold: the probability that the likeliest class must have, or the image is unknown; 0 for any.
    task: 'classification', 'multi_label' or 'regression'.
    about: all that the file says.
    """

    classes: tuple[str, ...]
    threshold: float
    task: str
    about: dict[str, Any]
    channels: int
    _session: Any

    def probabilities(self, images: Any) -> np.ndarray:
        """Compute the probabilities of all classes, or the numbers that a network for regression predicts.

        Args:
          images: a list of images, each the path of a file, its bytes, an image of Pillow, or an array (H, W), (H, W,
            1) or (H, W, 3) of uint8 or floats from 0 to 1; or an array (n, H, W, C) of images of one size.

        Returns:
          (n, classes) float32, classes in the order of `classes`.
        """
        if isinstance(images, str | Path | bytes) or arrays.is_picture(images):
            images = [images]
        rows = [self._session.run(None, {'images': batch})[0] for batch in _batches(map(self.pixels, images))]
        return np.concatenate([np.zeros((0, len(self.classes)), np.float32), *rows])

    def pixels(self, source: Any) -> np.ndarray:
        """Return an image upright with the colours that the network takes, (H, W, C) uint8.

        Args:
          source: one image, as in `probabilities`.
        """
        try:
            if isinstance(source, str | Path):
                source = photo.file_bytes(source)
            if isinstance(source, bytes):
                return photo.decode(source, channels=self.channels, upright=True)
        except (photo.Unreadable, OSError) as error:
            name = source if isinstance(source, str | Path) else 'the image'
            raise UserError(f'{name}: {error}') from error
        if arrays.is_picture(source):
            return arrays.of_picture(source, self.channels)
        return arrays.colours(np.asarray(source), self.channels)


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield images of one size that follow one another, a few together."""
    for shape, some in itertools.groupby(images, np.shape):
        most = max(min(TOGETHER, PIXELS // (shape[0] * shape[1])), 1)
        while group := list(itertools.islice(some, most)):
            yield np.stack(group)


def open_onnx(path: str | Path) -> Engine:
    """Open an ONNX file that mixjax wrote.

    Args:
      path: the file.
    """
    try:
        data = untrusted.read_regular(storage.to_place(path), MOST_BYTES)
    except ValueError as error:
        raise UserError(f'{path} cannot be opened: {error}') from None
    except OSError as error:
        raise UserError(f'{path} cannot be opened: {error.strerror or error}') from None
    try:
        opened = session(data)
    except UserError as error:
        raise UserError(f'{path} is no ONNX file, or is cut short or damaged ({error})') from None
    text = opened.get_modelmeta().custom_metadata_map.get('mixjax')
    if text is None:
        raise UserError(f'{path} is an ONNX file that mixjax did not write; give one that it has exported')
    try:
        return _described(untrusted.parse(text), opened)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path} is damaged ({type(error).__name__} in what it says of itself: {error})') from None


def _described(about: Any, opened: Any) -> Engine:
    """Return the engine of what a file says of itself; it may say anything."""
    classes, channels = tuple(about['classes']), about['image']['channels']
    threshold, task = about['threshold'], about['task']
    inputs, outputs = ([(one.name, one.type, len(one.shape)) for one in ports] for ports in
                       (opened.get_inputs(), opened.get_outputs()))  # fmt: skip
    if not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError('its classes have no names')
    if channels not in (1, 3) or type(threshold) not in (int, float) or not isinstance(task, str):
        raise ValueError('its channels, threshold or task cannot be')
    if inputs != [('images', 'tensor(uint8)', 4)] or outputs != [('probabilities', 'tensor(float)', 2)]:
        raise ValueError('its inputs or outputs are others')
    if opened.get_outputs()[0].shape[1] != len(classes):
        raise ValueError('it names more or fewer classes than it knows')
    return Engine(classes, float(threshold), task, about, channels, opened)


def session(data: bytes, threads: int = 0) -> Any:
    """Return the `onnxruntime.InferenceSession` of a model on the CPU.

    Args:
      data: the bytes of the model.
      threads: number of threads; 0 for one each core.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("an ONNX file is run by the package onnxruntime; pip install 'mixjax[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its exceptions have no common type
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f'onnxruntime: {lines[0][:200]}') from None
