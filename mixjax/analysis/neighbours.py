"""The labelled images of a run that are nearest to a new image, by the cosine similarity of their features."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax import inference
from mixjax.data.feed.batches import Lazy
from mixjax.data.labelled import run_data
from mixjax.data.pixels import decoded_cache
from mixjax.errors import UserError
from mixjax.host import array_cache, storage
from mixjax.inference import Floats, Learned, Predictor
from mixjax.tasks import Task
from mixjax.version import __version__

MOST = 50_000  # labelled images; of more, a fixed random choice
CACHE = 'features'  # folder in a work directory


class Near(NamedTuple):
    """A labelled image that is near another one.

    Attributes:
      name: its file, or its name in the data set; '' where it has none.
      label: its class, labels or numbers, as text.
      similarity: the cosine of the angle between the features of the two.
      image: (side, side, C) uint8, as the network gets it; None where it cannot be read any more.
    """

    name: str
    label: str
    similarity: float
    image: np.ndarray | None


class Labelled(NamedTuple):
    """Labelled images with their features.

    Attributes:
      learned: the images.
      features: (n, d), each of length 1.
      task: what their labels are.
    """

    learned: Learned
    features: Floats
    task: Task

    def nearest(self, features: np.ndarray, most: int = 5) -> list[Near]:
        """Return the images that are most similar to one with these features (d,), the most similar first."""
        similar = self.features @ unit(features)
        return [self._near(place, float(similar[place])) for place in np.argsort(-similar, kind='stable')[:most]]

    def _near(self, place: int, similarity: float) -> Near:
        data, row = self.learned.data, int(self.learned.rows[place])
        name = data.ids[row] if len(data.ids) else ''
        if name and self.learned.folder:
            name = str(PurePosixPath(self.learned.folder) / name)
        try:
            image = data.read(np.array([row]))[0]
        except (UserError, OSError):  # it has changed, or is gone
            image = None
        return Near(name, label_text(self.task, data.classes, data.labels[row]), similarity, image)


def label_text(task: Task, names: tuple[str, ...], label: np.ndarray) -> str:
    """Return the label of an image in words: its class, its labels, or its numbers."""
    if task.scaled:
        return ', '.join(f'{name} {value:.6g}' for name, value in zip(names, label, strict=True))
    if task.rows:
        return ', '.join(names[k] for k in np.flatnonzero(label)) or 'no label'
    return names[int(label)]


def unit(features: np.ndarray) -> np.ndarray:
    """Scale the last axis to length 1; vectors of zeros stay zero."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(length == 0, 1, length)


def width(predictor: Predictor) -> int:
    """Return the number of features of an image."""
    rule, network = predictor.rule, predictor.network
    image = jax.ShapeDtypeStruct((1, rule.side, rule.side, rule.channels), np.uint8)
    return jax.eval_shape(network.features, network.variables, image).shape[1]


def labelled_images(workdir: str, predictor: Predictor) -> Labelled:
    """Return the labelled images that the network in a work directory learned from, with their features.

    The features are computed once and kept in the work directory.

    Args:
      workdir: of a run, or of a search by `mixjax best`.
      predictor: the network, as `inference.load(workdir)` returns it.

    Raises:
      UserError: the images are not known, or not as they were; the message says why.
    """
    learned = inference.training_set(workdir)
    # They are read once, and then one by one: nothing is added to the cache of decoded images.
    learned = learned._replace(data=learned.data._replace(read=decoded_cache.passing(learned.data.read)))
    if len(learned.rows) > MOST:
        chosen = np.random.RandomState(0).permutation(len(learned.rows))[:MOST]
        learned = learned._replace(rows=learned.rows[np.sort(chosen)])
    key = {
        'version': __version__,
        'backend': jax.default_backend(),
        'network': array_cache.digest(predictor.network.variables),
        'image': [*predictor.rule, *predictor.network.geometry],
        'data': run_data.digest(learned.data),
        'rows': array_cache.digest(learned.rows),
    }
    folder = storage.resolve_links(storage.to_place(str(workdir).removesuffix('/model.safetensors'))) / CACHE
    images: Any = Lazy(learned.data.read, learned.rows)
    features = array_cache.Cache(folder, key).get('labelled', lambda: unit(predictor.features(images)))
    if features.shape != (len(learned.rows), width(predictor)) or features.dtype != np.float32:
        raise UserError(f'{folder} holds features that are not those of the labelled images; remove it')
    learned.data.read(learned.rows[:1])  # opens the cache's files now, and not in front of a client
    return Labelled(learned, features, predictor.task)
