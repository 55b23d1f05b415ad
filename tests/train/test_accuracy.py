"""Accuracy, top-5 and the mean over classes, each example counted once."""

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.data.feed.augment import Geometry
from mixjax.data.feed.batches import Images
from mixjax.method import Method
from mixjax.models.net import Net, Out
from mixjax.train import accuracy

GEOMETRY = Geometry(1, 0, False, (0.0,), (1.0,))


def evaluated(logits, label, size):
    """The measures of given logits: an image holds the number of its row in two bytes."""
    table = jnp.asarray(logits, jnp.float32)

    def apply(variables, image, *, train):
        del variables, train
        row = jnp.round(image[:, 0, 0] * 255).astype(jnp.int32)
        return Out({'target': table[row[:, 0] + 256 * row[:, 1]]}, image, {}), {}

    net = Net(init=None, apply=apply, group=None, redraw=None)
    one = accuracy.make(net, Method(loss=None), GEOMETRY._replace(mean=(0.0,) * 3, std=(1.0,) * 3))
    rows = np.arange(len(label))
    image = np.stack([rows % 256, rows // 256, 0 * rows], -1).astype(np.uint8)[:, None, None]
    batches = accuracy.batches(Images(image, np.asarray(label, np.int32)), size)

    @jax.jit
    def trial(variables, *batch):
        return jax.tree.map(lambda x: x[None], one(variables, *map(jnp.asarray, batch)))

    batches = list(batches)
    (found,), (each,) = accuracy.measure_each(trial, {}, batches, len(label))
    assert accuracy.measure(trial, {}, batches, len(label)) == [found]
    return found, each


def test_measures_by_hand():
    logits = np.zeros((4, 7))
    logits[0, 0] = logits[1, 1] = logits[2, 0] = 9  # the third is of class 1; the last has rank 6
    found, each = evaluated(logits, [0, 1, 1, 6], size=3)
    assert found['accuracy'] == 0.5 and found['top5'] == 0.75
    assert found['mean_per_class'] == (1 + 0.5 + 0) / 3  # of the classes that are there
    sure = np.log(np.exp(9) + 6)
    np.testing.assert_allclose(found['loss'], (2 * (sure - 9) + sure + np.log(7)) / 4, rtol=1e-6)
    assert each.predicted.tolist() == [0, 1, 0, 0]  # those that fill the last batch up are left out
    np.testing.assert_allclose(each.probability, [np.exp(9 - sure)] * 3 + [1 / 7], rtol=1e-6)


def test_measures_against_numpy_in_batches_of_any_size():
    random = np.random.RandomState(0)
    logits, label = random.randn(300, 8), random.randint(0, 8, 300)
    top = np.argsort(-logits, axis=1)
    right = top[:, 0] == label
    expected = {
        'accuracy': right.mean(),
        'top5': (top[:, :5] == label[:, None]).any(1).mean(),
        'mean_per_class': np.mean([right[label == c].mean() for c in range(8)]),
    }
    for size in (7, 300, 512):
        found, each = evaluated(logits, label, size)
        np.testing.assert_array_equal(each.predicted, top[:, 0])
        assert np.count_nonzero(each.predicted == label) / 300 == found['accuracy']
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_five_classes_have_no_top_five():
    assert 'top5' not in evaluated(np.eye(5), range(5), 5)[0]
    assert evaluated(np.eye(6), range(6), 6)[0]['top5'] == 1
