import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax.data import plan

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
