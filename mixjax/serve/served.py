"""One network of a server: compiled for its batches, its queue, and its answers."""

from __future__ import annotations

import base64
import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.analysis import explain
from mixjax.analysis.explain import Photograph, Seen
from mixjax.analysis.neighbours import Labelled, Near
from mixjax.errors import UserError
from mixjax.inference import UNKNOWN, Predictor
from mixjax.serve.batcher import Batcher
from mixjax.serve.metrics import Metrics
from mixjax.serve.room import Limits

SHOWN, SMALL = 640, 112  # pixels of a photograph with its map, and of a labelled image
QUALITY = 85  # of JPEG
TIMED = 3  # runs of a batch
GAIN = 0.9  # time an image of a larger batch, by that of a smaller one, from which on it is used
NO_WAY = 'no map could be made of this image'


class Job(NamedTuple):
    """An image for a network.

    Attributes:
      stored: (side, side, C) uint8, as the network's run would have stored it.
      why: whether an explanation is wanted.
    """

    stored: np.ndarray
    why: bool


class Prepared(NamedTuple):
    """An image that is ready for a network. photograph: what is drawn of it, if an explanation is wanted."""

    job: Job
    photograph: Photograph | None


class Served:
    """A network that answers.

    Args:
      name: what clients call it.
      predictor: the network.
      labelled: its labelled images; None where they are not known.
      limits: of the server.
      metrics: of the server.
    """

    def __init__(
        self, name: str, predictor: Predictor, labelled: Labelled | None, limits: Limits, metrics: Metrics
    ) -> None:
        self.name, self.predictor, self.labelled = name, predictor, labelled
        self._metrics = metrics
        self._by_size = {size: dataclasses.replace(predictor, batch=size) for size in sizes(limits.batch)}
        self.compile()
        most = max(self._by_size)
        self._batcher: Batcher[Job, Seen] = Batcher(self._counted, most, limits.patience, f'serve {name}')
        self.submit, self.close = self._batcher.submit, self._batcher.close

    @property
    def waiting(self) -> int:
        """The number of images in its queue."""
        return self._batcher.waiting

    @property
    def alive(self) -> bool:
        """True while its thread runs."""
        return self._batcher.alive

    def compile(self) -> None:
        """Compile everything that an answer needs, by predicting noise, and keep the sizes that are worth it."""
        rule = self.predictor.rule
        noise = np.random.RandomState(0).randint(0, 256, (rule.side, rule.side, rule.channels), np.uint8)
        seconds = {}
        for size, predictor in self._by_size.items():
            images = np.repeat(noise[None], size, 0)
            if not np.isfinite(predictor.values(images)).all():
                raise UserError(f'{self.name} predicts no numbers (nan): its training has failed; serve another run')
            seconds[size] = min(_seconds(predictor, images) for _ in range(TIMED))
        self._by_size = {size: self._by_size[size] for size in useful(seconds)}
        self._explained(noise)

    # --- an answer, in its order --------------------------------------------------------------------------------------

    def prepare(self, pixels: np.ndarray, why: bool) -> Prepared:
        """Prepare a decoded image (H, W, 3); any thread may."""
        if not why:
            return Prepared(Job(explain.as_stored(pixels, self.predictor), False), None)
        photograph = explain.photograph_of(pixels, self.predictor, SHOWN)
        return Prepared(Job(photograph.stored, True), photograph)

    def _compute(self, jobs: Sequence[Job]) -> list[Seen]:
        """Compute a batch: together what is only predicted, and one after the other what is explained."""
        plain = [job.stored for job in jobs if not job.why]
        values = iter(self._values(np.stack(plain)) if plain else ())
        return [self._explained(job.stored) if job.why else _of_values(next(values)) for job in jobs]

    def _counted(self, jobs: Sequence[Job]) -> list[Seen]:
        self._metrics.batch(self.name, len(jobs))
        return self._compute(jobs)

    def _values(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities or numbers (n, classes), in batches of the compiled sizes."""
        found, start = [], 0
        for size in parts(len(images), tuple(self._by_size)):
            found.append(self._by_size[size].values(images[start : start + size]))
            start += size
        return np.concatenate(found)

    def _explained(self, stored: np.ndarray) -> Seen:
        try:
            return explain.look(self.predictor, stored)
        except UserError:  # its logits depend on none of its maps
            return _of_values(self._values(stored[None])[0])

    def answer(self, prepared: Prepared, seen: Seen, top: int) -> dict[str, Any]:
        """Return the answer for one image as plain data; any thread may."""
        found: dict[str, Any] = {'model': self.name, **self.predictor.as_data(seen.values, top)}
        if 'top' in found:
            found['unknown'] = self.predictor.is_unknown(seen.values)
        if prepared.photograph is not None:
            found['why'] = self._why(prepared.photograph, seen)
        return found

    def _why(self, photograph: Photograph, seen: Seen) -> dict[str, Any]:
        known = self.labelled is not None and len(seen.features) > 0
        near = self.labelled.nearest(seen.features) if self.labelled is not None and known else []
        out: dict[str, Any] = {'nearest': [_near(one) for one in near]}
        if seen.map is None:
            return {'note': explain.NO_MAP if self.predictor.task.scaled else NO_WAY, **out}
        picture = explain.overlay(photograph.pixels, seen.map, photograph.box)
        return {'class': self.predictor.classes[seen.label], 'map': jpeg(picture), **out}

    def about(self) -> dict[str, Any]:
        """Return facts of the network, for `GET /models`."""
        predictor = self.predictor
        return {
            'model': self.name,
            'network': predictor.about['model'],
            'task': predictor.task.name,
            'classes': list(predictor.classes),
            'side': predictor.network.geometry.crop,
            'unknown': UNKNOWN if predictor.threshold > 0 else None,
            'threshold': predictor.threshold,
            'labelled': 0 if self.labelled is None else len(self.labelled.features),
        }


def _seconds(predictor: Predictor, images: np.ndarray) -> float:
    began = time.perf_counter()
    predictor.values(images)
    return time.perf_counter() - began


def _of_values(values: np.ndarray) -> Seen:
    return Seen(values, np.zeros(0, np.float32), int(np.argmax(values)), None)


def _near(one: Near) -> dict[str, Any]:
    """Return a labelled image for a client: its label and a small picture, and never its file."""
    picture = None if one.image is None else jpeg(explain.shown(_coloured(one.image), SMALL))
    return {'label': one.label, 'similarity': one.similarity, 'image': picture}


def _coloured(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def jpeg(pixels: np.ndarray) -> str:
    """Return a picture (H, W, 3) as a `data:` address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'JPEG', quality=QUALITY)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode('ascii')


def sizes(most: int) -> tuple[int, ...]:
    """Return the sizes of batches that are compiled: 1, 4, 16 .. and the largest.

    Example:
      >>> sizes(16), sizes(10), sizes(1)
      ((1, 4, 16), (1, 4, 10), (1,))
    """
    found = [1]
    while 4 * found[-1] < most:
        found.append(4 * found[-1])
    return tuple(dict.fromkeys([*found, most]))


def useful(seconds: Mapping[int, float]) -> tuple[int, ...]:
    """Return the sizes of batches whose time an image is clearly less than that of all smaller ones.

    On a CPU large networks gain nothing by batches, and an image would wait for the others.

    Args:
      seconds: {size: time of a batch}, in order.

    Example:
      >>> useful({1: 1.0, 4: 2.0, 16: 8.0}), useful({1: 0.03, 4: 0.13})
      ((1, 4), (1,))
    """
    found: list[int] = []
    for size, time_ in seconds.items():
        if all(time_ / size < GAIN * seconds[other] / other for other in found):
            found.append(size)
    return tuple(found)


def parts(count: int, known: Sequence[int]) -> list[int]:
    """Return the compiled sizes that some images are computed in: the largest that are full, then one for the rest.

    Example:
      >>> parts(21, (1, 4, 16)), parts(7, (1, 4, 16)), parts(2, (1, 4))
      ([16, 4, 1], [4, 4], [4])
    """
    found = []
    while count > 0:
        full = max(size for size in known if size <= count)
        over = min((size for size in known if size >= count), default=full)
        # Two images in a batch of four are not much slower than two batches of one; one of sixteen would be.
        found.append(over if over <= 2 * count else full)
        count -= found[-1]
    return found
