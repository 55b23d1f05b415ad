import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.maths import class_pairing
from tests.support.common import fixture


def test_centroids_by_hand():
    features = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
    np.testing.assert_allclose(class_pairing.centroids(features, np.array([0, 0, 2]), 3), [[2, 3], [0, 0], [10, 0]])


def test_cosine_is_maximised_not_minimised():
    target, source = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.1], [0.1, 2.0], [3.0, 0.0]])
    pairs = class_pairing.pair(class_pairing.cosine(target, source), np.ones(3))
    np.testing.assert_array_equal(pairs.mapping, [[2, 1]])


def test_equal_scores_go_to_the_lower_classes():
    np.testing.assert_array_equal(class_pairing.greedy(np.zeros((3, 4))), [0, 1, 2])


def test_greedy_takes_the_best_pair_first_and_the_assignment_the_best_total():
    score = np.array([[0.9, 0.8], [0.85, 0.1]])
    np.testing.assert_array_equal(class_pairing.greedy(score), [0, 1])  # 0.9 + 0.1
    np.testing.assert_array_equal(class_pairing.assignment(score), [1, 0])  # 0.8 + 0.85


def test_reference_case():
    f = fixture('xmixup_pairing')
    score = class_pairing.cosine(f['target_centroids'], f['source_centroids'])
    np.testing.assert_allclose(score, f['cosine'], rtol=1e-12, atol=1e-15)
    pairs = class_pairing.pair(score, f['source_class_sizes'], min_images=int(f['size_threshold']))
    np.testing.assert_array_equal(pairs.mapping, f['greedy_mapping'])
    np.testing.assert_array_equal(np.cumsum(f['source_class_sizes'][pairs.mapping].sum(axis=1)), f['cumulative_size'])
    np.testing.assert_allclose(pairs.score[0].sum(), f['greedy_round1_total'], rtol=1e-12)
    best = class_pairing.pair(score, f['source_class_sizes'], exact=True)
    np.testing.assert_array_equal(best.mapping[0], f['hungarian_mapping'])
    np.testing.assert_allclose(best.score.sum(), f['hungarian_total'], rtol=1e-12)


def test_rounds_never_use_a_source_class_twice():
    score = np.random.RandomState(0).rand(5, 17)
    pairs = class_pairing.pair(score, np.full(17, 10), min_images=101)
    assert pairs.mapping.shape == (3, 5)
    assert len(set(pairs.mapping.ravel())) == 15
    np.testing.assert_array_equal(pairs.score, score[np.arange(5), pairs.mapping])


def test_class_without_images_is_never_paired():
    score = np.array([[0.1, 0.9, 0.5]])
    assert class_pairing.pair(score, np.array([5, 0, 5])).mapping.tolist() == [[2]]
    with pytest.raises(UserError, match='only 1'):
        class_pairing.pair(np.ones((2, 3)), np.array([5, 0, 0]))


def test_too_few_source_classes():
    with pytest.raises(UserError, match='3 target classes .* the source has only 2'):
        class_pairing.pair(np.zeros((3, 2)), np.ones(2))
    with pytest.raises(UserError, match='50 source images need 6 source classes .* only 5; .* min_images=40'):
        class_pairing.pair(np.zeros((2, 5)), np.full(5, 10), min_images=50)
    with pytest.raises(UserError, match='3 rounds of pairing need 6 source classes .* at most rounds=2'):
        class_pairing.pair(np.zeros((2, 5)), np.full(5, 10), rounds=3)
