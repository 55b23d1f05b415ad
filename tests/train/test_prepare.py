import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax.data.dataset import Dataset
from mixjax.data.feed.augment import Geometry
from mixjax.errors import UserError
from mixjax.method import Head
from mixjax.train import init, prepare

GEOMETRY = Geometry(4, 1, False, (0.0,), (1.0,))
LABELS = np.array([0, 1, 1, 2, 2, 2, 2])
IMAGES = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)


@pytest.fixture
def part():
    passes = []

    def features(image):
        passes.append(image.shape)
        return jnp.stack([image.mean((1, 2, 3)) * 255, jnp.ones(len(image))], axis=1)

    key = jax.random.key(0)
    data = Dataset('three', ('a', 'b', 'c'), LABELS, lambda rows: IMAGES[rows])
    made = prepare.part(data, features, GEOMETRY, batch=4, key=key)
    return made, passes


def test_batches_in_order_each_example_once(part):
    batches = list(part[0].batches(3))
    assert [len(b['label']) for b in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([b['index'] for b in batches]), np.arange(7))
    np.testing.assert_array_equal(np.concatenate([b['label'] for b in batches]), LABELS)
    image = np.concatenate([b['image'] for b in batches])
    np.testing.assert_allclose(image[:, 0, 0, 0] * 255, np.arange(7), rtol=1e-5)


def test_augmented_batches_go_on_without_end(part):
    batches = list(itertools.islice(part[0].batches(5, augmented=True), 7))
    index = np.concatenate([b['index'] for b in batches])
    for epoch in range(5):
        assert sorted(index[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert all(b['image'].shape == (5, 4, 4, 1) for b in batches)
    zeros = np.concatenate([(b['image'] == 0).any((1, 2, 3)) & (b['index'] > 0) for b in batches])
    assert 0 < zeros.sum() < len(zeros)  # some crops show the border


def test_class_means_are_computed_once_in_one_shape(part):
    made, passes = part
    np.testing.assert_allclose(made.class_means(), [[0, 1], [1.5, 1], [4.5, 1]], rtol=1e-5)
    assert passes == [(4, 4, 4, 1)] * 2
    made.class_means()
    assert len(passes) == 2
    some = made.class_means(1)
    assert some[0, 0] == 0 and some[1, 0] in (1, 2) and round(float(some[2, 0])) in (3, 4, 5, 6)


def test_some_of_each():
    rows = prepare.some_of_each(LABELS, 3, 2)
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [1, 2, 2])
    np.testing.assert_array_equal(rows, prepare.some_of_each(LABELS, 3, 2))
    np.testing.assert_array_equal(prepare.some_of_each(LABELS, 3, None), np.arange(7))


def test_rows_of_the_pretrained_classifier():
    fresh = {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}
    start = {'params': {'heads': {'source': {'kernel': jnp.arange(8.0).reshape(2, 4), 'bias': jnp.arange(4.0)}}}}
    made = init.copy_rows(fresh, Head(3, np.array([-1, 3, 0])), start)
    np.testing.assert_array_equal(made['kernel'], [[0, 3, 0], [0, 7, 4]])
    np.testing.assert_array_equal(made['bias'], [0, 3, 0])
    with pytest.raises(UserError, match='width 3 names 2 rows'):
        init.copy_rows(fresh, Head(3, np.array([0, 1])), start)
    with pytest.raises(UserError, match='which the weights do not hold'):
        init.copy_rows(fresh, Head(3, np.array([0, 1, 4])), start)
    with pytest.raises(UserError, match='which the weights do not hold'):
        init.copy_rows(fresh, Head(3, np.array([0, 1, 2])), {'params': {'heads': {}}})
