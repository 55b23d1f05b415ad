"""CutMix across domains: boxes of paired source images, and labels by the share of the image that is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import losses
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.method import Prepared
from mixjax.models.net import Out
from tests.support.method_setting import CLASSES, B, drawn, setting


def at_hand(**knobs):
    """A setting with source images, target images 0 and source images 1, so that a pixel tells where it is from."""
    one = setting('xcutmix', **knobs)
    one.seen = []
    inner = one.net.apply

    def apply(variables, image, *, train):
        one.seen.append(np.asarray(image))
        return inner(variables, image, train=train)

    one.net = one.net._replace(apply=apply)
    shape = one.ctx.batch['image'].shape
    source = jnp.array([4, 1, 6] * B)[:B]
    batch = {'image': jnp.zeros(shape), 'source_image': jnp.ones(shape), 'source_label': source}
    frozen = {'chosen': np.array([1, 4, 6]), 'column': jnp.array([-1, 0, -1, -1, 1, -1, 2])}
    one.ctx = one.ctx._replace(batch=one.ctx.batch | batch, frozen=frozen)
    heads = one.method.heads(CLASSES, 7, Prepared(frozen))
    one.params['heads'] = {
        name: drawn(1, name, head.width)['params']['heads'][name] for name, head in heads.items()
    }
    return one


def shares(image):
    """The share of each image that is the target's; every image must be a box of ones in zeros."""
    inside = image[..., 0] == 1
    assert (image == inside[..., None]).all()
    for one in inside:
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, rows[:, None] & columns)
        for line in (rows, columns):
            assert (np.diff(np.flatnonzero(line)) == 1).all()
    return 1 - inside.mean(axis=(1, 2))


def test_labels_are_mixed_by_what_is_left_of_each_image():
    one = at_hand(alpha=1.0)
    value, aux = one.method.loss(one.net, one.params, one.ctx)
    lam = shares(one.seen[0])
    assert len(set(lam)) > 5 and ((lam > 0.2) & (lam < 1)).any()  # a box for each image
    out, _ = one.net.apply(one.ctx.variables(one.params), jnp.asarray(one.seen[0]), train=True)
    z, label = out.logits['joint'], one.ctx.batch['label']
    assert z.shape == (B, CLASSES + 3)
    other = CLASSES + np.array([1, 0, 2] * B)[:B]
    ce_t, ce_s = losses.cross_entropy(z, label), losses.cross_entropy(z, jnp.asarray(other))
    np.testing.assert_allclose(value, (lam * ce_t + (1 - lam) * ce_s).mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['target_ce'], ce_t.mean(), rtol=1e-5)
    np.testing.assert_array_equal(one.method.predict(out), z[:, :CLASSES])


def test_two_heads_and_labels_of_the_target_alone():
    one = at_hand(alpha=1.0, labels='two_heads')
    value, aux = one.method.loss(one.net, one.params, one.ctx)
    lam = shares(one.seen[0])
    out, _ = one.net.apply(one.ctx.variables(one.params), jnp.asarray(one.seen[0]), train=True)
    ce_s = losses.cross_entropy(out.logits['source'], jnp.array([1, 0, 2] * B)[:B])
    ce_t = losses.cross_entropy(out.logits['target'], one.ctx.batch['label'])
    np.testing.assert_allclose(value, (lam * ce_t + (1 - lam) * ce_s).mean(), rtol=1e-5)
    alone = at_hand(alpha=1.0, labels='target')
    value, _ = alone.method.loss(alone.net, alone.params, alone.ctx)
    np.testing.assert_array_equal(alone.seen[0], one.seen[0])
    np.testing.assert_allclose(value, ce_t.mean(), rtol=1e-5)


def test_alpha_is_how_much_of_the_target_stays():
    kept = []
    for alpha in (1.0, 4.0, 64.0):
        one = at_hand(alpha=alpha)
        found = []

        def apply(variables, image, *, train, found=found):
            found.append(shares(np.asarray(image)))
            return Out({'joint': jnp.zeros((B, CLASSES + 3))}, None, {}), {}

        one.net = one.net._replace(apply=apply)
        for step in range(20):
            ctx = one.ctx._replace(rng=jax.random.key(step))
            one.method.loss(one.net, one.params, ctx)
        kept.append(np.mean(found))
    # An uncut box leaves lam, 1/2, 4/5 and 64/65 on average; what is cut off at the borders leaves more.
    assert 0.5 < kept[0] < kept[1] < kept[2] < 1 and kept[1] > 0.8 and kept[2] > 64 / 65


@pytest.mark.parametrize(('knob', 'value'), [('alpha', 0.0), ('labels', 'both'), ('auxiliary', 'none'), ('rounds', 0)])
def test_impossible_values(knob, value):
    with pytest.raises(UserError, match=f'{knob} must be'):
        method_registry.load('xcutmix')(10, **{knob: value})
