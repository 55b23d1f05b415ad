import jax
import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.method import Data, Part
from mixjax.methods import _source_selection, xmixup

CLASSES_T, CLASSES_S, D = 4, 10, 6


def part(classes, each, seed):
    labels = np.repeat(np.arange(classes), each)
    means = np.random.RandomState(seed).normal(size=(classes, D))

    def class_means(per_class=None):
        asked.append(per_class)
        return means

    asked: list = []
    names = tuple(f'class {k}' for k in range(classes))
    return Part(names, labels, np.bincount(labels, minlength=classes), lambda *_: iter(()), class_means), asked


@pytest.fixture
def data():
    source, _ = part(CLASSES_S, 5, 1)
    return Data(part(CLASSES_T, 2, 0)[0], source)


def select(data, seed=0, **changes):
    return _source_selection.paired(data, rng=jax.random.key(seed), **changes)


def classes_of(data, made, t):
    draw = made.draw
    return [set(data.source.labels[draw.rows[a : a + n]]) for a, n in zip(draw.start[t], draw.count[t], strict=True)]


def test_each_target_class_gets_a_distinct_source_class_per_round(data):
    made = select(data, rounds=2)
    owned = [classes_of(data, made, t) for t in range(CLASSES_T)]
    flat = [inside for rounds in owned for one in rounds for inside in one]
    assert all(len(one) == 1 for rounds in owned for one in rounds) and len(set(flat)) == len(flat) == 8
    assert made.draw.count.shape == (4, 2) and (made.draw.count == 5).all() and (made.draw.rounds == 2).all()
    # The first round is the more similar one, and the score is the cosine of the means.
    t, s = data.target.class_means(), data.source.class_means()
    (first,) = owned[0][0]
    cosine = t[0] @ s[first] / np.linalg.norm(t[0]) / np.linalg.norm(s[first])
    np.testing.assert_allclose(made.draw.score[0, 0], cosine)
    np.testing.assert_array_equal(made.frozen['chosen'], np.unique(flat))
    column = made.frozen['column']
    assert (column[made.frozen['chosen']] == np.arange(8)).all() and (
        np.delete(column, made.frozen['chosen']) == -1
    ).all()


def test_notes_on_the_selection(data):
    greedy, exact = select(data), select(data, exact=True)
    assert greedy.notes['source images'] == 20
    assert greedy.notes['similarity'] <= greedy.notes['best similarity'] == exact.notes['similarity']
    np.testing.assert_allclose(greedy.notes['similarity'], greedy.draw.score.mean())


def test_the_whole_source_without_a_selection(data):
    """Any source image for any target class, and no class means, which for ImageNet are a pass over all of it."""
    means = Data(data.target._replace(class_means=None), data.source._replace(class_means=None))
    made = _source_selection.everything(means)
    np.testing.assert_array_equal(made.draw.rows, np.arange(50))
    assert (made.draw.start == 0).all() and (made.draw.count == 50).all() and made.draw.count.shape == (CLASSES_T, 1)
    np.testing.assert_array_equal(made.frozen['chosen'], np.arange(CLASSES_S))
    np.testing.assert_array_equal(made.frozen['column'], np.arange(CLASSES_S))
    assert made.notes == {'source images': 50}
    method = xmixup.make(CLASSES_T, auxiliary='all')
    again = method.prepare(None, means, jax.random.key(0))
    np.testing.assert_array_equal(again.draw.rows, made.draw.rows)
    assert method.heads(CLASSES_T, CLASSES_S, again)['joint'].width == CLASSES_T + CLASSES_S


def test_subsampling_keeps_every_class(data):
    for most in (4, 7, 13):
        made = select(data, max_images=most)
        whole = select(data)
        assert len(made.draw.rows) == made.draw.count.sum() == most and (made.draw.count >= 1).all()
        assert set(made.draw.rows) <= set(whole.draw.rows) and len(set(made.draw.rows)) == most
        for t in range(CLASSES_T):
            assert classes_of(data, made, t) == classes_of(data, whole, t)
    drawn = {tuple(select(data, seed, max_images=7).draw.rows) for seed in range(5)}
    assert len(drawn) > 1 and tuple(select(data, 3, max_images=7).draw.rows) in drawn
    assert len(select(data, max_images=1000).draw.rows) == 20
    with pytest.raises(UserError, match='max_images=3, and 4 source classes were chosen'):
        select(data, max_images=3)


def test_random_images_are_shared_by_all(data):
    made = _source_selection.at_random(data, 12, jax.random.key(0))
    assert len(set(made.draw.rows)) == 12 and (made.draw.count == 12).all() and (made.draw.start == 0).all()
    assert made.draw.score is None and made.draw.count.shape == (4, 1)
    np.testing.assert_array_equal(made.frozen['chosen'], np.unique(data.source.labels[made.draw.rows]))


def test_images_are_drawn_by_a_key_and_by_nothing_else(data):
    # Runs of earlier releases hold these: the draw must never change.
    assert select(data, 3, max_images=7).draw.rows.tolist() == [47, 48, 20, 6, 8, 17, 19]
    assert _source_selection.at_random(data, 6, jax.random.key(3)).draw.rows.tolist() == [3, 15, 23, 27, 41, 43]
    for other in (0, np.random.RandomState(0)):
        with pytest.raises(UserError, match='rng must be a jax key'):
            _source_selection.paired(data, rng=other)  # with or without max_images
        with pytest.raises(UserError, match='rng must be a jax key'):
            _source_selection.at_random(data, 12, other)


def test_pooled_images_are_those_of_all_pairs(data):
    made = select(data, rounds=2)
    pooled = _source_selection.pooled(made, data)
    assert sorted(pooled.draw.rows) == sorted(made.draw.rows) and (pooled.draw.count == 40).all()
    assert pooled.frozen is made.frozen and pooled.notes is made.notes


def test_the_cap_reaches_the_source_alone():
    (target, asked_t), (source, asked_s) = part(2, 3, 0), part(4, 3, 1)
    for cap in (7, 0):
        select(Data(target, source), per_class=cap)
    assert asked_t == [None, None] and asked_s == [7, None]


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'rounds': 0}, 'rounds must be at least 1'),
        ({'min_images': -1}, 'must be at least 0'),
        ({'min_images': 9, 'max_images': 8}, 'max_images must be at least min_images'),
    ],
)
def test_impossible_settings(changes, words):
    usual = {'rounds': 1, 'min_images': 0, 'max_images': 0, 'per_class': 0}
    with pytest.raises(UserError, match=words):
        _source_selection.check(**{**usual, **changes})


def test_without_source_data(data):
    with pytest.raises(UserError, match='config.source.name'):
        select(data._replace(source=None))
