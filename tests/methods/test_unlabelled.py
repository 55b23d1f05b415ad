"""Methods that learn from unlabelled images: their losses by hand, their pseudo-labels, and runs on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import losses
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.method import Data, Part
from mixjax.methods import _side_by_side, selftrain
from mixjax.train import experiment, program, seeds
from tests.support.common import lines
from tests.support.method_setting import CLASSES, B, assert_close, of, setting
from tests.support.toy import settings, tiny  # noqa: F401 (for every test: tiny)


@pytest.mark.parametrize(
    ('method', 'knob', 'value'),
    [
        ('fixmatch', 'threshold', 1.5),
        ('fixmatch', 'weight', -1.0),
        ('fixmatch', 'mu', 0),
        ('selftrain', 'members', 0),
        ('selftrain', 'labels', 'firm'),
        ('selftrain', 'threshold', -0.1),
        ('selftrain', 'weight', -1.0),
        ('selftrain', 'mu', 0),
    ],
)
def test_impossible_values(method, knob, value):
    with pytest.raises(UserError, match=f'{knob}.* must be'):
        method_registry.load(method)(10, **{knob: value})


def test_kinds_of_images_stand_side_by_side_and_come_apart_again():
    one, two, three = jnp.arange(2), 10 + jnp.arange(4), 20 + jnp.arange(6)
    found = _side_by_side.together(one, two, three)
    np.testing.assert_array_equal(found, [0, 10, 11, 20, 21, 22, 1, 12, 13, 23, 24, 25])
    for kind, again in zip((one, two, three), _side_by_side.apart(found, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(kind, again)
    images = jnp.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(_side_by_side.together(images, images)[1::2], images)


# --- FixMatch ---------------------------------------------------------------------------------------------------------


def passed(one, *names):
    """Logits of kinds of images, one after the other in one forward pass, and the model state."""
    images = [one.ctx.batch[name] for name in names]
    out, state = one.net.apply(one.ctx.variables(one.params), jnp.concatenate(images), train=True)
    return jnp.split(out.logits['target'], np.cumsum([len(x) for x in images])[:-1]), state


def test_fixmatch_by_hand():
    one = setting('fixmatch', mu=2, threshold=0.3, weight=0.7)
    value, aux, grads = of(one)
    (z, weak, strong), state = passed(one, 'image', 'weak', 'strong')
    q = np.asarray(jax.nn.softmax(weak))
    sure, label = q.max(axis=1) >= 0.3, q.argmax(axis=1)
    assert 0 < sure.sum() < len(sure)
    ce = losses.cross_entropy(z, one.ctx.batch['label']).mean()
    pseudo = -np.asarray(jax.nn.log_softmax(strong))[np.arange(2 * B), label]
    np.testing.assert_allclose(aux.metrics['mask'], sure.mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics['pseudo_ce'], pseudo[sure].sum() / (2 * B), rtol=1e-4)
    np.testing.assert_allclose(value, ce + 0.7 * pseudo[sure].sum() / (2 * B), rtol=1e-5)
    assert_close(aux.model_state, state, 1e-5)  # BatchNorm has seen all three kinds

    def fixed(params):
        """The same loss with the pseudo-labels as constants: no gradient flows through them."""
        one.params = params
        (z, _, strong), _ = passed(one, 'image', 'weak', 'strong')
        mine = losses.cross_entropy(z, one.ctx.batch['label']).mean()
        return mine + 0.7 * (sure * losses.cross_entropy(strong, jnp.asarray(label))).mean()

    assert_close(grads, jax.grad(fixed)(one.params), 1e-5)


@pytest.mark.parametrize(('threshold', 'mask'), [(0.0, 1.0), (1.0, 0.0)])
def test_the_threshold_of_fixmatch(threshold, mask):
    one = setting('fixmatch', mu=1, threshold=threshold)
    value, aux, _ = of(one)
    assert float(aux.metrics['mask']) == mask
    if not mask:
        np.testing.assert_allclose(value, aux.metrics['ce'], rtol=1e-6)


def test_fixmatch_sees_a_weak_and_a_strong_view():
    method = method_registry.load('fixmatch')(10)
    assert method.unlabelled == 7 and {name: view.of for name, view in method.views.items()} == {
        'weak': 'unlabelled', 'strong': 'unlabelled',
    }  # fmt: skip
    assert method.views['weak'].augment == '' and method.views['strong'].augment == 'randaugment(2,10),erase(0.5)'
    assert method_registry.load('fixmatch')(10, strong='blur').views['strong'].augment == 'blur'


# --- self-training ----------------------------------------------------------------------------------------------------


def test_selftrain_by_hand():
    one = setting('selftrain', weight=0.6)
    pseudo = jax.nn.softmax(jax.random.normal(jax.random.key(0), (7, CLASSES)))
    one.ctx = one.ctx._replace(frozen={'pseudo': pseudo.at[2].set(0)})
    value, aux, _ = of(one)
    (z, more), _ = passed(one, 'image', 'more')
    target = np.asarray(pseudo.at[2].set(0))[np.arange(B) % 7]
    expected = -(target * np.asarray(jax.nn.log_softmax(more))).sum(axis=1).mean()
    np.testing.assert_allclose(aux.metrics['pseudo_ce'], expected, rtol=1e-5)
    ce = losses.cross_entropy(z, one.ctx.batch['label']).mean()
    np.testing.assert_allclose(value, ce + 0.6 * expected, rtol=1e-5)


def test_ridge_is_the_minimiser():
    rng = np.random.RandomState(0)
    x, y, more = rng.normal(size=(20, 4)), rng.normal(size=(20, 3)), rng.normal(size=(5, 4))
    strength = 0.3
    penalty = strength * 20 * x.var(axis=0).mean()
    # The same problem as least squares with rows for the penalty, and an intercept that has none.
    design = np.block([[x, np.ones((20, 1))], [np.sqrt(penalty) * np.eye(4), np.zeros((4, 1))]])
    weights = np.linalg.lstsq(design, np.concatenate([y, np.zeros((4, 3))]), rcond=None)[0]
    found = selftrain.ridge(x, y, more, strength)
    np.testing.assert_allclose(found, np.c_[more, np.ones(5)] @ weights, rtol=1e-9)
    # Features that do not vary say nothing: the mean label.
    np.testing.assert_allclose(selftrain.ridge(0 * x, y, more, strength), np.tile(y.mean(axis=0), (5, 1)))


def clouds(count, first):
    """Images whose mean colour tells their class, as `prepare` sees them: (part with labels, the true labels)."""
    labels = np.arange(count) % CLASSES
    centre = np.random.RandomState(0).normal(size=(CLASSES, 3)) * 3
    noise = np.random.RandomState(first).normal(size=(count, 8, 8, 3)) * 0.3
    images = jnp.asarray(centre[labels][:, None, None] + noise, jnp.float32)

    def batches(size, augmented=False, per_class=None):
        for start in range(0, count, size):
            here = slice(start, start + size)
            yield {'image': images[here], 'label': labels[here], 'index': np.arange(count)[here]}

    sizes = np.bincount(labels, minlength=CLASSES)
    return Part(tuple('abcde'), labels, sizes, batches, lambda per_class=None: np.zeros((CLASSES, 4)))


def seen_by(one, part):
    """The part with the features of the pretrained network, as the trainer gives it."""
    (batch,) = part.batches(1000)
    return part._replace(features=lambda: np.asarray(one.net.source(batch['image']).features))


def both(one, labelled=10, more=130):
    unlabelled = clouds(more, 2)
    hidden = unlabelled._replace(classes=(), labels=np.full(more, -1), sizes=np.zeros(0, int))
    return Data(seen_by(one, clouds(labelled, 1)), None, seen_by(one, hidden)), unlabelled.labels


def test_probes_label_what_features_tell_apart():
    one = setting('selftrain', members=9)
    data, truth = both(one)
    made = one.method.prepare(one.net, data, jax.random.key(0))
    pseudo = made.frozen['pseudo']
    assert pseudo.shape == (130, CLASSES) and pseudo.dtype == np.float32
    np.testing.assert_allclose(pseudo.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(pseudo * 9, np.round(pseudo * 9), atol=1e-5)  # shares of nine votes
    assert (pseudo.argmax(axis=1) == truth).mean() > 0.8
    np.testing.assert_allclose(made.notes['agreement'], pseudo.max(axis=1).mean(), rtol=1e-6)
    assert made.notes['pseudo-labelled'] == 1 and 0.5 < made.notes['agreement'] < 1
    again, other = (one.method.prepare(one.net, data, jax.random.key(k)).frozen['pseudo'] for k in (0, 1))
    np.testing.assert_array_equal(again, pseudo)
    assert not np.array_equal(other, pseudo)


def test_hard_pseudo_labels_above_a_threshold():
    one = setting('selftrain', members=9)
    data, _ = both(one)
    soft = one.method.prepare(one.net, data, jax.random.key(0)).frozen['pseudo']
    hard = setting('selftrain', members=9, labels='hard', threshold=0.7)
    made = hard.method.prepare(hard.net, data, jax.random.key(0))
    kept = soft.max(axis=1) >= 0.7
    assert 0 < kept.sum() < len(kept) and made.notes['pseudo-labelled'] == kept.mean()
    expected = np.where(kept[:, None], np.eye(CLASSES)[soft.argmax(axis=1)], 0)
    np.testing.assert_array_equal(made.frozen['pseudo'], expected)


def test_a_class_without_labels_gets_no_votes():
    one = setting('selftrain', members=3)
    data, _ = both(one)
    rows = np.flatnonzero(data.target.labels != 3)
    features = data.target.features()[rows]
    few = data._replace(target=data.target._replace(labels=data.target.labels[rows], features=lambda: features))
    pseudo = one.method.prepare(one.net, few, jax.random.key(0)).frozen['pseudo']
    assert np.isfinite(pseudo).all() and (pseudo[:, 3] == 0).all()


def test_selftrain_needs_unlabelled_images():
    one = setting('selftrain')
    data, _ = both(one)
    with pytest.raises(UserError, match='config.unlabelled.name'):
        one.method.prepare(one.net, data._replace(unlabelled=None), jax.random.key(0))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['fixmatch', 'selftrain'])
def test_the_rest_is_learned_from_by_default_and_never_tested_on(name, tmp_path):
    config = config_lib.load('quickstart', [('method.name', name)])
    assert config.unlabelled.name == 'rest'
    built = program.build(config)
    rows = built.draw(0).rows
    tested = set(range(len(built.sets.train.labels))) - set(rows.known)
    assert len(rows.unlabelled) and not tested & set(rows.unlabelled) and not set(rows.labelled) & set(rows.unlabelled)
    assert len(seeds.test_images(built, 0).label) == len(tested)
    data, _ = seeds.method_data(built, 0)
    assert (data.unlabelled.labels == -1).all() and len(data.unlabelled.labels) == len(rows.unlabelled)
    assert data.mean == built.shared.geometry.mean and data.std == built.shared.geometry.std


@pytest.mark.parametrize('name', [pytest.param('fixmatch', marks=pytest.mark.slow), 'selftrain'])
def test_quickstart_by_name(name, tmp_path):
    words = {'method.name': name, 'num_seeds': '1', 'steps': '4', 'eval_every': '2', 'log_every': '2', 'devices': '1'}
    experiment.run(config_lib.load('quickstart', list(words.items())), tmp_path / 'run')
    found = [line for line in lines(tmp_path / 'run' / 'metrics.jsonl') if 'pseudo_ce' in line]
    assert found and all(np.isfinite(line['loss']) for line in found)


@pytest.mark.parametrize('name', ['fixmatch', 'selftrain'])
def test_parts_of_a_batch_have_their_own_unlabelled_images(name, tmp_path):
    """Without statistics of the batch, a batch in two parts is the same step as a whole one."""
    config = settings({'name': name, 'mu': 2}, accumulate=2)
    built = seeds.build_and_try(config, tmp_path)
    assert built.method.unlabelled == 2 and not built.method.whole_batch
