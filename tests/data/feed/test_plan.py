import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from mixjax.data.feed import plan

KEY = jax.random.key(3)


def stream(batch, count, steps):
    one = jax.jit(lambda step: plan.epochs(KEY, step, batch, count))
    return np.concatenate([one(jnp.asarray(step)) for step in range(steps)])


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 20), count=st.integers(1, 30))
def test_every_example_comes_once_before_any_comes_twice(batch, count):
    seen = stream(batch, count, 3 + 2 * count // batch)
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_differ_and_steps_do_not_depend_on_what_came_before():
    seen = stream(5, 40, 16).reshape(2, 40)
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(plan.epochs(KEY, jnp.asarray(9), 5, 40), seen.ravel()[45:50])


def test_late_steps_do_not_overflow():
    late = plan.epochs(KEY, jnp.asarray(30_000_000), 128, 1000)
    assert late.min() >= 0 and late.max() < 1000
    first = 30_000_000 * 128
    np.testing.assert_array_equal(
        late[: 1000 - first % 1000][:50],
        jax.random.permutation(jax.random.fold_in(KEY, first // 1000), 1000)[first % 1000 :][:50],
    )


@settings(max_examples=6, deadline=None)
@given(batch=st.integers(1, 20), count=st.integers(1, 30), step=st.integers(0, 1000), steps=st.integers(1, 3))
def test_precomputed_orders_equal_those_of_the_steps(batch, count, step, steps):
    first, many = plan.touched(step, steps, batch, count)
    made = plan.orders(KEY, jnp.uint32(first), many, count)
    assert made.table.shape == (many, count)
    for at in range(step, step + steps):
        there, here = (plan.epochs(KEY, jnp.asarray(at), batch, count, known) for known in (made, None))
        np.testing.assert_array_equal(there, here)


def law():
    """Three target classes with 1, 2 and 2 segments of unequal sizes; the last two share one."""
    return plan.Draw(
        start=jnp.array([[0, 0], [2, 5], [5, 10]]),
        count=jnp.array([[2, 1], [3, 5], [5, 1]]),
        rounds=jnp.array([1, 2, 2]),
    )


def test_source_rows_follow_the_law():
    n = 60_000
    label = jnp.arange(n) % 3
    at = np.asarray(plan.sources(KEY, label, law()))
    expected = {
        0: {0: 1 / 2, 1: 1 / 2},
        1: {2: 1 / 6, 3: 1 / 6, 4: 1 / 6, **dict.fromkeys(range(5, 10), 1 / 10)},
        2: {**dict.fromkeys(range(5, 10), 1 / 10), 10: 1 / 2},
    }
    for c, rows in expected.items():
        drawn = at[np.asarray(label) == c]
        assert set(drawn) == set(rows)  # every row reachable, no other
        counts = np.array([(drawn == row).sum() for row in rows])
        want = np.array(list(rows.values())) * len(drawn)
        chi2 = ((counts - want) ** 2 / want).sum()
        assert chi2 < 30  # 99.9 % point for 7 degrees of freedom is 24.3


def test_the_union_is_drawn_from_uniformly():
    n = 60_000
    label = jnp.arange(n) % 3
    at = np.asarray(plan.sources(KEY, label, law()._replace(union=jnp.asarray(True))))
    for c, rows in {0: range(2), 1: range(2, 10), 2: range(5, 11)}.items():
        drawn = at[np.asarray(label) == c]
        assert set(drawn) == set(rows)
        counts, want = np.array([(drawn == row).sum() for row in rows]), len(drawn) / len(rows)
        assert ((counts - want) ** 2 / want).sum() < 30


@pytest.mark.parametrize('groups', [1, 3])
def test_rows_of_a_step(groups):
    label = jnp.arange(30) % 3
    rows = plan.rows(KEY, jnp.asarray(4), label, batch=12, groups=groups, draw=law())
    again = jax.jit(lambda s: plan.rows(KEY, s, label, batch=12, groups=groups, draw=law()))(jnp.asarray(4))
    for a, b in zip(
        jax.tree.leaves(rows._replace(augment=())), jax.tree.leaves(again._replace(augment=())), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert rows.partner.shape == (groups, 12 // groups)
    np.testing.assert_array_equal(np.sort(rows.partner, axis=1), np.tile(np.arange(12 // groups), (groups, 1)))
    for t, s in zip(rows.target, rows.source, strict=True):
        assert {0: s < 2, 1: 2 <= s < 10, 2: 5 <= s < 11}[int(label[t])]


def test_the_source_draw_does_not_disturb_the_target_rows():
    label = jnp.arange(30) % 3
    with_draw = plan.rows(KEY, jnp.asarray(4), label, batch=12, draw=law())
    without = plan.rows(KEY, jnp.asarray(4), label, batch=12)
    np.testing.assert_array_equal(with_draw.target, without.target)
    np.testing.assert_array_equal(with_draw.partner, without.partner)
    assert without.source is None


def test_the_rest_of_a_plan_where_the_target_rows_are_known():
    label = jnp.arange(30) % 3
    whole = plan.rows(KEY, jnp.asarray(4), label, batch=12, groups=3, draw=law())
    rest = plan.of_target(KEY, jnp.asarray(4), whole.target, label[whole.target], groups=3, draw=law())
    for name in ('target', 'partner', 'source'):
        np.testing.assert_array_equal(getattr(rest, name), getattr(whole, name))
    assert rest.augment == whole.augment == plan.augmentation(KEY, jnp.asarray(4))


def test_the_plan_is_the_same_with_64_bit_types():
    def made():
        rows = plan.rows(KEY, jnp.asarray(7), jnp.arange(30) % 3, batch=12, groups=3, draw=law())
        return [np.asarray(x) for x in rows[:3]]

    narrow = made()
    with jax.enable_x64(True):
        wide = made()
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(a, b)


# --- shards -----------------------------------------------------------------------------------------------------------


def table(sizes, classes, rounds, union=False):
    """Segments of those sizes laid end to end, dealt to the classes in turn, each with so many of them."""
    sizes = np.array(sizes)
    start = np.cumsum(sizes) - sizes
    which = (np.arange(classes)[:, None] + np.arange(rounds)) % len(sizes)
    return plan.Draw(start[which], sizes[which], np.full(classes, rounds), union)


def reachable(rows, draw, shard, label, k):
    first, many = draw.start[shard, label, k], draw.count[shard, label, k]
    return rows[shard, first : first + many]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    rounds=st.integers(1, 3),
    shards=st.integers(1, 9),
)
def test_every_shard_has_its_part_of_every_segment(sizes, rounds, shards):
    rounds = min(rounds, len(sizes))
    rows = np.random.default_rng(0).permutation(1000)[: sum(sizes)]
    draw = table(sizes, 4, rounds)
    dealt, law = plan.deal(rows, draw, shards)
    assert dealt.shape[0] == shards and law.start.dtype == law.count.dtype == np.int32
    for label in range(4):
        for k in range(rounds):
            first, many = draw.start[label, k], draw.count[label, k]
            segment = set(rows[first : first + many])
            parts = [list(reachable(dealt, law, s, label, k)) for s in range(shards)]
            if many < shards:
                assert all(sorted(part) == sorted(segment) for part in parts)
            else:
                assert sorted(sum(parts, [])) == sorted(segment)
                assert {len(part) for part in parts} <= {many // shards, -(-many // shards)}
    # No longer than the even share, the short segments apart.
    short = {(a, b) for a, b in zip(draw.start.ravel(), draw.count.ravel(), strict=True) if b < shards}
    assert dealt.shape[1] == -(-len(rows) // shards) + sum(b for _, b in short)


@pytest.mark.parametrize(
    ('images', 'shards', 'least', 'most'),
    [(1300, 8, 0.997, 1.003), (1300, 64, 0.967, 1.016), (1300, 256, 0.846, 1.016), (732, 64, 0.953, 1.040),
     (732, 256, 0.953, 1.430), (5, 8, 1.0, 1.0), (1, 4, 1.0, 1.0)],
)  # fmt: skip
def test_expected_probabilities_are_near_the_uniform_ones(images, shards, least, most):
    rows = np.arange(100 + images)  # the segment does not begin at a multiple of the shards
    dealt, law = plan.deal(rows, plan.Draw(np.array([[99]]), np.array([[images]]), np.array([1])), shards)
    share = np.zeros(len(rows))
    for shard in range(shards):
        mine = reachable(dealt, law, shard, 0, 0)
        share[mine] += 1 / shards / len(mine)
    relative = share[99 : 99 + images] * images
    assert share.sum() == pytest.approx(1) and share[99 : 99 + images].sum() == pytest.approx(1)
    assert (round(relative.min(), 3), round(relative.max(), 3)) == (least, most)


def expected(dealt, draw, labels, shards):
    """{row: expected number of draws} of one batch with these labels, by the law as it is told."""
    out = {}
    for i, label in enumerate(labels):
        shard = i * shards // len(labels)
        whole = draw.whole[label, : draw.rounds[label]]
        chance = whole / whole.sum() if draw.union else np.full(len(whole), 1 / len(whole))
        for k, p in enumerate(chance):
            mine = reachable(dealt, draw, shard, label, k)
            for row in mine:
                out[int(row)] = out.get(int(row), 0.0) + p / len(mine)
    return out


@pytest.mark.parametrize('union', [False, True])
@pytest.mark.parametrize('rounds', [1, 2])
@pytest.mark.parametrize('shards', [1, 4])
def test_draws_follow_the_law_of_the_shards(shards, rounds, union):
    sizes, batch, steps = (9, 3, 20, 14), 40, 2500  # 100,000 draws; one segment is shorter than the shards
    rows = np.arange(sum(sizes))
    dealt, draw = plan.deal(rows, table(sizes, 4, rounds, union), shards)
    labels = np.random.default_rng(1).integers(0, 4, batch)
    tables = jax.tree.map(jnp.asarray, draw)
    keys = jax.random.split(KEY, steps)
    place = np.asarray(jax.jit(jax.vmap(lambda key: plan.sources(key, jnp.asarray(labels), tables)))(keys))
    drawn = dealt[np.arange(batch) * shards // batch, place]
    want = {row: steps * count for row, count in expected(dealt, draw, labels, shards).items()}
    assert set(np.unique(drawn)) == set(want)  # every row that can be reached is, and no other
    counts = np.bincount(drawn.ravel(), minlength=len(rows))
    statistic = sum((counts[row] - count) ** 2 / count for row, count in want.items())
    assert statistic < chi2.ppf(0.999, len(want) - 4)
    for i, label in enumerate(labels):  # each position from its own shard, and from a segment of its class
        mine = np.concatenate([reachable(dealt, draw, i * shards // batch, label, k) for k in range(rounds)])
        assert np.isin(drawn[:, i], mine).all()


@pytest.mark.parametrize('union', [False, True])
def test_one_shard_draws_as_without_shards(union):
    draw = table((9, 3, 20, 14), 4, 2, union)
    dealt, one = plan.deal(np.arange(46)[::-1], draw, 1)
    np.testing.assert_array_equal(dealt[0], np.arange(46)[::-1])
    label = jnp.arange(64) % 4
    plain, same = (plan.sources(KEY, label, jax.tree.map(jnp.asarray, law)) for law in (draw, one))
    np.testing.assert_array_equal(plain, same)
