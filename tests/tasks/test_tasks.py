"""Tasks: their measures by hand and against scikit-learn, their losses, and the standardisation of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from mixjax import losses, method, tasks
from mixjax.errors import UserError
from mixjax.tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION, classification, multi_label


def test_a_method_may_name_every_task():
    assert method.TASKS == tasks.NAMES
    assert [tasks.of(task.setting) for task in tasks.TASKS.values()] == list(tasks.TASKS.values())
    with pytest.raises(UserError, match="unknown task 'multilabel'; did you mean 'multi_label'"):
        tasks.of('multilabel')


def test_the_loss_of_classes_is_the_cross_entropy_itself():
    assert method.Run(1, 1.0, (), ()).loss.func is CLASSIFICATION.loss is losses.cross_entropy
    assert method.Data(None).loss is losses.cross_entropy


# --- classification ---------------------------------------------------------------------------------------------------


def test_rank_by_hand():
    logits = jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, jnp.nan, 2.0], [jnp.inf, 0.0, 1.0]])
    label = jnp.array([2, 0, 2, 2, 0])
    assert classification.rank(logits, label).tolist() == [1, 0, 2, 3, 0]


def test_rank_agrees_with_argmax_and_a_stable_sort():
    logits = jnp.asarray(np.random.RandomState(0).randint(0, 4, (200, 9)), jnp.float32)  # many are equal
    label = jnp.asarray(np.random.RandomState(1).randint(0, 9, 200))
    order = np.argsort(-np.asarray(logits), axis=1, kind='stable')
    found = classification.rank(logits, label)
    np.testing.assert_array_equal(found, np.argmax(order == np.asarray(label)[:, None], axis=1))
    np.testing.assert_array_equal(found == 0, jnp.argmax(logits, -1) == label)


# --- several labels ---------------------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    # Found at the ranks 1, 3 and 6 of 6: (1/1 + 2/3 + 3/6) / 3.
    score, label = np.array([9.0, 8, 7, 6, 5, 4]), np.array([1, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(multi_label.average_precision(score, label), (1 + 2 / 3 + 3 / 6) / 3, rtol=1e-12)
    # The second and third are equal: both are found at once, at rank 3 with precision 2 / 3.
    score = np.array([9.0, 8, 8, 6])
    np.testing.assert_allclose(multi_label.average_precision(score, np.array([1, 0, 1, 0])), 0.5 + 0.5 * 2 / 3)
    np.testing.assert_allclose(multi_label.average_precision(np.zeros(4), np.array([1, 0, 0, 0])), 0.25)


def test_average_precision_against_scikit_learn_with_equal_scores():
    for seed in range(50):
        random = np.random.RandomState(seed)
        score, label = random.randint(0, 6, 40).astype(float), random.rand(40) < random.rand()
        if label.any():
            found = multi_label.average_precision(score, label)
            np.testing.assert_allclose(found, metrics.average_precision_score(label, score), rtol=1e-12)


def test_measures_of_labels_against_scikit_learn():
    random = np.random.RandomState(0)
    score, label = random.randn(200, 7), (random.rand(200, 7) < 0.3).astype(np.float32)
    found = MULTI_LABEL.measures((), score, label, 'abcdefg')
    assert tuple(found) == MULTI_LABEL.named and next(iter(found)) == MULTI_LABEL.primary
    wanted = {
        'mAP': metrics.average_precision_score(label, score, average='macro'),
        'F1_macro': metrics.f1_score(label, score > 0, average='macro'),
        'F1_micro': metrics.f1_score(label, score > 0, average='micro'),
        'exact_match': metrics.accuracy_score(label, score > 0),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_labels_that_do_not_occur_are_left_out_of_the_means():
    score, label = np.array([[1.0, 5.0], [-1.0, -5.0]]), np.array([[1, 0], [0, 0]])
    found = MULTI_LABEL.measures((), score, label, 'ab')
    # Of the second label the prediction is wrong: one of two predicted labels is right, and one of two images.
    assert found == {'mAP': 1.0, 'F1_macro': 1.0, 'F1_micro': 2 * 1 / (1 + 2), 'exact_match': 0.5}


def test_measures_that_are_not_known_are_nan():
    found = MULTI_LABEL.measures((), np.ones((2, 2)), np.zeros((2, 2)), 'ab')
    assert np.isnan([found['mAP'], found['F1_macro']]).all() and found['F1_micro'] == found['exact_match'] == 0
    assert np.isnan(multi_label.average_precision(np.array([np.nan, 1.0]), np.array([1, 0])))


def test_the_loss_of_labels_is_the_binary_cross_entropy():
    random = np.random.RandomState(0)
    logits, label = random.randn(5, 3) * 5, random.rand(5, 3)
    p = 1 / (1 + np.exp(-logits))
    wanted = -(label * np.log(p) + (1 - label) * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(label)), wanted, rtol=1e-5)
    huge = losses.sigmoid_cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([[0.0, 0.0]]))
    assert huge.tolist() == [5000.0]
    gradient = jax.grad(lambda z: losses.sigmoid_cross_entropy(z, jnp.array([[1.0, 0.0]])).sum())(jnp.zeros((1, 2)))
    assert gradient.tolist() == [[-0.25, 0.25]]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_measures_of_one_number_by_hand():
    found = REGRESSION.measures((), np.array([[1.0], [4.0]]), np.array([[2.0], [6.0]]), ['age'])
    assert found == {'MAE': 1.5, 'RMSE': np.sqrt(2.5), 'R2': 1 - 5 / 8}
    assert tuple(found) == REGRESSION.named


def test_measures_of_several_numbers_against_scikit_learn():
    random = np.random.RandomState(0)
    said, label = random.randn(50, 2), random.randn(50, 2) * [1, 100]
    found = REGRESSION.measures((), said, label, ['a', 'b'])
    np.testing.assert_allclose(found['MAE'], metrics.mean_absolute_error(label, said))
    np.testing.assert_allclose(found['RMSE'], metrics.root_mean_squared_error(label, said))
    np.testing.assert_allclose(found['R2'], metrics.r2_score(label, said))
    np.testing.assert_allclose(found['R2 b'], metrics.r2_score(label[:, 1], said[:, 1]))
    assert found['MAE b'] > found['MAE a'] and len(found) == 9


def test_the_fit_to_a_constant_is_not_known():
    found = REGRESSION.measures((), np.ones((3, 1)), np.ones((3, 1)), ['a'])
    assert found['MAE'] == 0 and np.isnan(found['R2'])


def test_numbers_are_standardised_and_come_back():
    labels = np.array([[1.0, 1e9, 7], [3.0, 1e9 + 4, 7]])
    scale = REGRESSION.scale(labels)
    np.testing.assert_array_equal(scale.std, [1, 2, 1])  # a constant is only shifted
    fed = REGRESSION.fed(labels, scale)
    assert fed.dtype == np.float32
    np.testing.assert_array_equal(fed, [[-1, -1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(REGRESSION.reported(fed, scale), labels)
    np.testing.assert_array_equal(REGRESSION.values(fed, scale), labels)
    assert MULTI_LABEL.scale(labels) is None is CLASSIFICATION.scale(labels[:, 0])


def test_less_is_better_of_an_error():
    assert REGRESSION.better(1.0, 2.0) and not REGRESSION.better(2.0, 1.0) and not REGRESSION.better(1.0, 1.0)
    assert MULTI_LABEL.better(2.0, 1.0) and not MULTI_LABEL.better(1.0, 2.0)
    assert REGRESSION.better(1.0, None) and not REGRESSION.better(None, 1.0) and not REGRESSION.better(None, None)
