"""Both feeds give the same bits, whatever way they are asked."""

from __future__ import annotations

import functools
import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax.data.feed import batches, plan, stream
from mixjax.data.feed.augment import Geometry
from mixjax.data.feed.batches import Images, Lazy
from mixjax.data.feed.plan import Sizes
from mixjax.errors import UserError
from tests.support.common import no_threads_are_left

BATCH, GROUPS, STEPS = 12, 2, 10
SIZES = Sizes(BATCH, GROUPS)
GEOMETRY = Geometry(4, 1, True, (0.5, 0.4), (0.2, 0.3))
PIXELS = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 2), np.uint8)
KEYS = [jax.random.key(k) for k in range(3)]


def read(rows):
    return PIXELS[rows]


def images(rows, classes):
    return Images(Lazy(read, rows), (np.asarray(rows) % classes).astype(np.int32))


def law(sizes, union=False):
    """Three target classes with two segments each."""
    sizes = np.array(sizes)
    which = np.array([[0, 1], [2, 0], [1, 2]])
    start = np.cumsum(sizes) - sizes
    return plan.Draw(start[which], sizes[which], np.array([2, 1, 2]), union)


def tree(seed=0, shards=0, count=17, epoch=None):
    """What the feed of one seed is made of: `count` target images; source images of unequal number, if any."""
    random = np.random.default_rng(seed)
    target = images(random.permutation(100)[:count], 3)
    if not shards:
        return batches.seed_inputs(target, None, None, epoch)
    rows, draw = 100 + random.permutation(200)[: 40 + seed], law((9 + seed, 20, 11), union=bool(seed % 2))
    if shards > 1:
        rows, draw = plan.deal(rows, draw, shards)
    return batches.seed_inputs(target, images(rows, 7), draw, epoch)


def one_by_one(step):
    return ((s, 1) for s in range(step, STEPS))


def opened(trees, keys, calls=one_by_one):
    put = functools.partial(jax.tree.map, jnp.asarray)
    return stream.Stream(trees, keys, SIZES, steps=STEPS, calls=calls, put=put)


gathered = jax.jit(batches.gather_batch, static_argnums=(3, 4))


def resident(tree, key, step):
    inputs = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(np.asarray, gathered(inputs, key, jnp.asarray(step), BATCH, GROUPS))


def handed(inputs, trial, step):
    return jax.tree.map(np.asarray, batches.select_batch(jax.tree.map(lambda x: x[trial], inputs), jnp.asarray(step)))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- images that are read when they are asked for ---------------------------------------------------------------------


def test_lazy_images_are_an_array():
    rows = np.array([[5, 3, 5], [9, 0, 1]])
    lazy = Lazy(read, rows)
    assert lazy.shape == (2, 3, 6, 5, 2) and lazy.ndim == 5 and len(lazy) == 2 and lazy.nbytes == 360
    np.testing.assert_array_equal(lazy[1], PIXELS[[9, 0, 1]])
    np.testing.assert_array_equal(lazy[np.array([1, 0]), np.array([2, 2])], PIXELS[[1, 5]])
    np.testing.assert_array_equal(lazy.part((0, slice(1, 3)))[...], PIXELS[[3, 5]])
    np.testing.assert_array_equal(np.asarray(lazy), PIXELS[rows])
    np.testing.assert_array_equal(jnp.asarray(lazy), PIXELS[rows])
    assert Lazy(read, np.array([], int)).shape == (0, 6, 5, 2)


def test_lazy_images_read_what_is_asked_for():
    asked = []
    lazy = Lazy(lambda rows: asked.extend(rows.tolist()) or PIXELS[rows], np.arange(50))
    lazy.part(slice(10, 40))[[3, 4]]
    lazy[48:]
    assert asked == [13, 14, 48, 49]


# --- the same examples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shards', [0, 1, 4])
def test_stream_gives_the_gathered_batches(shards):
    trees = [tree(seed, shards) for seed in range(2)]
    trials = batches.padded([*trees, trees[1]])  # a trial without a seed of its own repeats the last one
    host = opened(trials, [KEYS[0], KEYS[1], KEYS[1]])
    for step in range(STEPS):
        inputs = host.inputs(step, 1)
        for trial, seed in enumerate((0, 1, 1)):
            want = resident(trees[seed], KEYS[seed], step)
            assert_same(handed(inputs, trial, step), want)
            assert set(want) == {'image', 'label', 'index', 'partner'} | (
                {'source_image', 'source_label'} if shards else set()
            )
            np.testing.assert_array_equal(want['image'], PIXELS[trees[seed]['target']['image'].rows[want['index']]])
    host.close()
    assert no_threads_are_left()


def test_positions_draw_from_their_own_shard():
    one = tree(shards=4)
    rows = one['source']['image'].rows
    for step in range(STEPS):
        found = resident(one, KEYS[0], step)
        for i, image in enumerate(found['source_image']):
            here = PIXELS[rows[i * 4 // BATCH]]
            assert (here == image).all((1, 2, 3)).any()


def test_calls_of_any_length_in_any_order_are_the_same_steps():
    one = tree(shards=4)
    want = [resident(one, KEYS[0], step) for step in range(STEPS + 4)]

    def four(step):
        while step < STEPS:
            count = 4 if step + 4 <= STEPS else 1
            yield step, count
            step += count

    host = opened([one], KEYS[:1], four)
    for first, count in [*four(0), (7, 1), (8, 1), (3, 4), (3, 4), (0, 2), (2, 1), (STEPS, 1), (STEPS - 2, 6)]:
        inputs = host.inputs(first, count)
        assert inputs['image'].shape[:2] == (1, count)
        for step in range(first, first + count):
            assert_same(handed(inputs, 0, step), want[step])
    host.close()
    host.close()
    assert no_threads_are_left()


def test_batches_of_both_feeds_are_equal_to_the_last_bit():
    one, key, step = tree(shards=4), KEYS[0], jnp.asarray(5)
    batch = jax.jit(batches.batch(GEOMETRY, size=BATCH, groups=GROUPS))
    host = opened([one], [key])
    given = jax.tree.map(lambda x: x[0], host.inputs(5, 1))
    host.close()
    a, b = batch(jax.tree.map(jnp.asarray, one), key, step), batch(given, key, step)
    assert a['image'].shape == a['source_image'].shape == (BATCH, 4, 4, 2)
    assert_same(jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b))
    assert not np.array_equal(a['image'], batch(given | {'first': step - 1}, key, step + 1)['image'])  # other crops


# --- the plan on the host ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [5, 12, 17, 100])
def test_host_plan_equals_device_plan(count):
    one = tree(shards=4, count=count)
    planner = stream.Planner(KEYS[1], one, SIZES)
    label, draw = jax.tree.map(jnp.asarray, (one['target']['label'], one['draw']))
    rows = jax.jit(lambda step: plan.rows(KEYS[1], step, label, batch=BATCH, groups=GROUPS, draw=draw))
    for step in [*range(12), 100_000_007, (2**32 - 1) // BATCH - 1]:
        found, want = planner(step), rows(jnp.asarray(step, jnp.uint32))
        for a, b in zip(found, want[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def test_epoch_with_repeated_examples():
    epoch = np.concatenate([np.arange(17), np.repeat([3, 5], 4)])
    one = tree(shards=1, epoch=epoch)
    planner = stream.Planner(KEYS[1], one, SIZES)
    seen = []
    for step in range(25):
        found = gathered(
            jax.tree.map(jnp.asarray, one | {'target': {k: np.asarray(v) for k, v in one['target'].items()}}),
            KEYS[1],
            jnp.uint32(step),
            BATCH,
            GROUPS,
        )
        np.testing.assert_array_equal(found['index'], planner(step)[0])
        np.testing.assert_array_equal(found['label'], one['target']['label'][found['index']])
        seen += np.asarray(found['index']).tolist()
    assert BATCH * 25 % 25 == 0 and np.bincount(seen).tolist() == (BATCH * np.bincount(epoch)).tolist()


def test_host_plan_equals_device_plan_with_64_bit_types():
    one = tree(shards=4)
    narrow = [stream.Planner(KEYS[1], one, SIZES)(step) for step in range(3)]
    with jax.enable_x64(True):
        wide = [stream.Planner(KEYS[1], one, SIZES)(step) for step in range(3)]
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert a.dtype == b.dtype == np.int32
        np.testing.assert_array_equal(a, b)


# --- reading ahead ----------------------------------------------------------------------------------------------------


def eventually(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_stream_prefetch_is_bounded():
    asked = []
    one = batches.seed_inputs(
        Images(Lazy(lambda rows: asked.append(1) or PIXELS[rows], np.arange(40)), LABELS), None, None
    )
    host = stream.Stream(
        [one], KEYS[:1], Sizes(BATCH), steps=10_000, calls=lambda s: ((i, 1) for i in itertools.count(s)),
        put=lambda tree: tree,
    )  # fmt: skip
    host.inputs(0, 1)
    assert eventually(lambda: len(asked) > 3)
    time.sleep(0.3)
    assert len(asked) < 200
    host.close()
    assert no_threads_are_left()


LABELS = np.zeros(40, np.int32)


def test_an_image_that_cannot_be_read_stops_the_step_that_needs_it():
    def fails(rows):
        if 33 in rows:
            raise UserError('photo 33 is damaged')
        return PIXELS[rows]

    one = batches.seed_inputs(Images(Lazy(fails, np.arange(40)), LABELS), None, None)
    host = opened([one], KEYS[:1])
    bad = next(s for s in range(STEPS) if 33 in stream.Planner(KEYS[0], one, SIZES)(s)[0])
    for step in range(bad):
        host.inputs(step, 1)
    with pytest.raises(UserError, match='photo 33 is damaged'):
        host.inputs(bad, 1)
    host.close()
    assert no_threads_are_left()


def test_prefetch_makes_items_ahead_in_another_thread():
    made, closed = [], []

    def items():
        try:
            for k in range(100):
                made.append((k, threading.current_thread()))
                yield k
        finally:
            closed.append(True)

    ahead = stream.Ahead(items(), 2)
    assert next(ahead) == 0
    assert eventually(lambda: len(made) == 4)  # two wait, and one is ready to be put there
    time.sleep(0.05)
    assert len(made) == 4 and all(thread is not threading.main_thread() for _, thread in made)
    assert [next(ahead), next(ahead)] == [1, 2]
    ahead.close()
    assert closed and no_threads_are_left() and next(ahead, None) is None


def test_prefetch_ends_and_raises_as_its_iterator_does():
    ahead = stream.Ahead(iter(range(3)), 1)
    assert list(ahead) == [0, 1, 2] and list(ahead) == [] and no_threads_are_left()

    def failing():
        yield 1
        raise ValueError('no more')

    ahead = stream.Ahead(failing(), 5)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match='no more'):
        next(ahead)
    assert next(ahead, None) is None and no_threads_are_left()


def test_batches_are_made_anew_each_time():
    batches = stream.Batches(lambda: iter(range(5)), 5)
    assert len(batches) == 5 and batches
    assert list(batches) == list(batches) == [0, 1, 2, 3, 4] and no_threads_are_left()
    for item in batches:
        if item == 2:
            break
    batches.close()
    assert no_threads_are_left()
    with pytest.raises(TypeError, match='in order only'):
        batches[0]
    assert not stream.Batches(lambda: iter(()), 0)
