"""Explanations of one prediction: where the network finds its likeliest class, and the nearest labelled images.

    model = mixjax.load('runs/pets')
    found = explain(model, 'photo.jpg', labelled_images('runs/pets', model))
    found.name, found.probability         # ('beagle', 0.97)
    found.overlay                         # (H, W, 3) uint8, the class activation map over the photograph
    found.nearest                         # labelled images: their files, classes and similarities

The parts are functions of their own, for a server that decodes and draws in other threads than the network's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.analysis import cam, class_maps
from mixjax.analysis.neighbours import Labelled, Near
from mixjax.data.feed import augment
from mixjax.data.pixels import arrays, photo
from mixjax.errors import UserError
from mixjax.inference import Floats, Prediction, Predictor, Source

Array = jax.Array

NO_MAP = 'a network for numbers has no map: there is no class that a region could speak for'
SIDES = 320, 1024  # of the photograph under a map, in pixels: the longer side of a small one, and of a large one
# The colours of a map, from 0 to 1: dark violet, magenta, orange, yellow. Their lightness only grows.
COLOURS = np.array([[40, 10, 90], [150, 30, 120], [240, 110, 50], [255, 225, 80]], np.float32)
OPACITY = 0.65  # of a map's maximum
OUTSIDE = 0.35  # brightness of what the network does not see
LEVEL = 0.5  # of the line around the region, as in `cam.area`


class Photograph(NamedTuple):
    """Photograph with the part of it that a network sees.

    Attributes:
      pixels: (H, W, 3) uint8, upright; at most as large as it is shown.
      stored: (side, side, C) uint8, as `Predictor.read` returns it.
      box: top, left, bottom and right of what the network sees, in shares of the photograph's height and width. It
        reaches beyond the photograph where the network sees a border.
    """

    pixels: np.ndarray
    stored: np.ndarray
    box: tuple[float, float, float, float]


class Seen(NamedTuple):
    """Outputs of a network for one image.

    Attributes:
      values: (classes,), its probabilities or numbers.
      features: (d,).
      label: the class of the map.
      map: (crop, crop) in [0, 1], or None of a network for numbers.
    """

    values: np.ndarray
    features: np.ndarray
    label: int
    map: np.ndarray | None


class Explanation(NamedTuple):
    """Explanation of the prediction for one image.

    Attributes:
      prediction: the likeliest classes; of a network for numbers it is empty.
      name: the class of the map: the likeliest one, or the likeliest label.
      probability: of that class.
      map: (h, w) in [0, 1], the positive part of the class activation map over the crop that the network sees, divided
        by its maximum; None of a network for numbers.
      overlay: (H, W, 3) uint8, the photograph with the map over it. What the network does not see is darker.
      photograph: (H, W, 3) uint8, without the map.
      nearest: the nearest labelled images, the most similar first.
      values: (classes,), all probabilities or numbers.
      classes: their names.
    """

    prediction: Prediction
    name: str
    probability: float
    map: np.ndarray | None
    overlay: np.ndarray
    photograph: np.ndarray
    nearest: list[Near]
    values: np.ndarray
    classes: tuple[str, ...]

    @property
    def named_values(self) -> list[tuple[str, float]]:
        """All classes with their probabilities, or all numbers with their names."""
        return [(name, float(value)) for name, value in zip(self.classes, self.values, strict=True)]


def explain(predictor: Predictor, source: Source, labelled: Labelled | None = None, nearest: int = 5) -> Explanation:
    """Explain the prediction for one image.

    The map is of the likeliest class, also where that class is not probable enough to be known; of a network with
    several labels an image, of the likeliest label. It is of the centre crop, also where `config.image.tta` predicts
    from several views.

    Args:
      predictor: a trained network.
      source: the image, as a call of the predictor takes it.
      labelled: the images to find the nearest of, as `neighbours.labelled_images` returns them; None finds none.
      nearest: how many of them.

    Returns:
      The explanation.

    Example:
      >>> import mixjax, numpy as np
      >>> image = np.zeros((32, 16), np.uint8)
      >>> image[8:24, 7:9] = 255  # a vertical stroke
      >>> found = explain(mixjax.load('embedded://glyphnet'), image)
      >>> found.map.shape, round(float(found.map.max()), 3), found.overlay.shape
      ((16, 16), 1.0, (320, 160, 3))
    """
    try:
        photograph = open_photograph(source, predictor)
    except (photo.Unreadable, OSError) as error:
        raise UserError(f'{source if isinstance(source, str | Path) else "the image"}: {error}') from error
    seen = look(predictor, photograph.stored)
    return explanation(predictor, photograph, seen, labelled.nearest(seen.features, nearest) if labelled else [])


def explanation(predictor: Predictor, photograph: Photograph, seen: Seen, nearest: list[Near]) -> Explanation:
    """Put the parts of an explanation together."""
    scaled = predictor.task.scaled
    return Explanation(
        Prediction() if scaled else predictor.ranked(seen.values), predictor.classes[seen.label],
        float('nan') if scaled else float(seen.values[seen.label]), seen.map,
        overlay(photograph.pixels, seen.map, photograph.box), photograph.pixels, nearest, seen.values,
        predictor.classes,
    )  # fmt: skip


# --- the photograph ---------------------------------------------------------------------------------------------------


def open_photograph(source: Source, predictor: Predictor) -> Photograph:
    """Decode an image, and find what the network sees of it; raises `photo.Unreadable` for what is not a picture."""
    return photograph_of(read_pixels(source), predictor)


def read_pixels(source: Source) -> np.ndarray:
    """Decode an image, upright: (H, W, 3) uint8; raises `photo.Unreadable` for what is not a picture."""
    if isinstance(source, str | Path):
        source = photo.file_bytes(source)
    if isinstance(source, bytes):
        return photo.decode(source, upright=True)
    if arrays.is_picture(source):
        return arrays.of_picture(source, 3)
    return arrays.colours(np.asarray(source), 3)


def photograph_of(pixels: np.ndarray, predictor: Predictor, most: int = SIDES[1]) -> Photograph:
    """Return a photograph with what a network sees of it.

    Args:
      pixels: (H, W, 3) uint8.
      predictor: the network.
      most: the longer side of the photograph as it is shown, at most.
    """
    rule, geometry = predictor.rule, predictor.network.geometry
    height, width = pixels.shape[:2]
    stored = as_stored(pixels, predictor)
    top, left, bottom, right = photo.fit_box(height, width, rule)
    inner = augment.centre_box(stored.shape[0], stored.shape[1], geometry)
    down, across = (bottom - top) / stored.shape[0], (right - left) / stored.shape[1]
    box = (
        (top + inner[0] * down) / height, (left + inner[1] * across) / width,
        (top + inner[2] * down) / height, (left + inner[3] * across) / width,
    )  # fmt: skip
    return Photograph(shown(pixels, most), stored, box)


def as_stored(pixels: np.ndarray, predictor: Predictor) -> np.ndarray:
    """Return an image (H, W, 3) as the network's run would have stored it, (side, side, C) uint8."""
    return photo.fit(photo.grey(pixels) if predictor.rule.channels == 1 else pixels, predictor.rule)


def shown(pixels: np.ndarray, most: int) -> np.ndarray:
    """Resize a photograph (H, W, 3) to be looked at: a large one to `most`, and pixels of a tiny one become squares."""
    import cv2

    longer = max(pixels.shape[:2])
    size = [max(1, round(side * most / longer)) for side in pixels.shape[1::-1]]
    if longer > most:
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    times = max(1, min(SIDES[0], most) // longer)
    return np.repeat(np.repeat(pixels, times, 0), times, 1)


# --- the network ------------------------------------------------------------------------------------------------------


def look(predictor: Predictor, stored: np.ndarray) -> Seen:
    """Return what the network says of one stored image (side, side, C), with the map of the likeliest class."""
    network, programs = predictor.network, predictor.programs

    def forward(variables: class_maps.Tree, image: Array) -> tuple[Array, Array, Array, Array]:
        x = augment.centre(image, network.geometry)
        out = network.forward(variables, x)
        logits = network.logits(variables, image) if network.tta else network.predict(out)
        return logits, out.features.astype(jnp.float32), out.maps['last'], x

    program = programs.setdefault('forward', jax.jit(forward))
    logits, features, last, x = program(network.variables, jnp.asarray(stored[None]))
    values = predictor.task.values(np.asarray(logits) / np.float32(predictor.temperature), predictor.scale)[0]
    if predictor.task.scaled:
        return Seen(values, np.asarray(features[0]), 0, None)
    label = int(np.argmax(values))
    inputs = class_maps.Inputs(x, jnp.array([label]), features, last)
    found, _ = class_maps.class_maps(_source(predictor), inputs)
    shares = cam.positive(cam.enlarge(found, *x.shape[1:3]))
    return Seen(values, np.asarray(features[0]), label, np.asarray(shares[0]))


def _source(predictor: Predictor) -> class_maps.Source:
    network = predictor.network
    heads = network.variables['params']['heads']
    kernel = heads['target']['kernel'] if set(heads) == {'target'} else None
    return class_maps.Source(
        network.net, network.variables, network.predict, lambda: kernel, 1, predictor.programs, predictor.about['model']
    )


# --- the picture ------------------------------------------------------------------------------------------------------


def overlay(pixels: np.ndarray, shares: Floats | None, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return a photograph with a map over it.

    Args:
      pixels: (H, W, 3) uint8.
      shares: (h, w) in [0, 1], the map; None for a photograph without one.
      box: the part of the photograph that the map is of; see `Photograph`.

    Returns:
      (H, W, 3) uint8; the photograph is darker outside of the box, and a white line within a black one is around where
      the map is above half of its maximum.
    """
    top, left, bottom, right = box
    rows, columns = _centres(pixels.shape[0], top, bottom), _centres(pixels.shape[1], left, right)
    inside = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))
    out = np.where(inside[..., None], pixels, OUTSIDE * pixels)
    if shares is not None:
        found = _weights(rows, shares.shape[0]) @ shares @ _weights(columns, shares.shape[1]).T * inside
        opacity = OPACITY * found[..., None]
        out = (1 - opacity) * out + opacity * _coloured(found)
        region = (found >= LEVEL) & inside
        out[_edge(~region) & inside] = 0
        out[_edge(region)] = 255
    return np.rint(out).astype(np.uint8)


def _centres(size: int, low: float, high: float) -> np.ndarray:
    """Return the centres of pixels in shares of the box, from its beginning to its end."""
    return ((np.arange(size) + 0.5) / size - low) / (high - low)


def _weights(at: np.ndarray, size: int) -> np.ndarray:
    """Return the weights (n, size) of bilinear interpolation at places in shares of an axis."""
    place = np.clip(at * size - 0.5, 0, size - 1)
    low = np.minimum(np.floor(place).astype(int), max(size - 2, 0))
    out = np.zeros((len(at), size), np.float32)
    out[np.arange(len(at)), low] = 1 - (place - low)
    out[np.arange(len(at)), np.minimum(low + 1, size - 1)] += place - low
    return out


def _coloured(shares: np.ndarray) -> np.ndarray:
    """Return the colours (.., 3) of shares (..)."""
    at = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(shares, at, COLOURS[:, channel]) for channel in range(3)], -1)


def _edge(region: np.ndarray) -> np.ndarray:
    """Return the pixels of a region that have a neighbour outside of it; beyond the picture it goes on."""
    padded = np.pad(region, 1, mode='edge')
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner
