import jax
import jax.numpy as jnp
import numpy as np

from mixjax.method import Method
from mixjax.models.net import Out
from mixjax.train import export


def heads(**widths):
    """Small whole numbers: sums of their products are exact, in whatever order a product of matrices adds them."""
    rng = np.random.RandomState(0)
    return {
        name: {
            'kernel': jnp.asarray(rng.randint(-9, 10, (6, width)), jnp.float32),
            'bias': jnp.asarray(rng.randint(-9, 10, width), jnp.float32),
        }
        for name, width in widths.items()
    }


def logits(made, features):
    return {name: features @ head['kernel'] + head['bias'] for name, head in made.items()}


def test_the_classes_that_prediction_selects_are_exported_exactly():
    made = heads(joint=9, other=2)
    method = Method(loss=None, predict=lambda out: out.logits['joint'][:, :4])
    plain = export.plain_heads(method, made)
    assert set(plain) == {'target'}
    np.testing.assert_array_equal(plain['target']['kernel'], made['joint']['kernel'][:, :4])
    np.testing.assert_array_equal(plain['target']['bias'], made['joint']['bias'][:4])
    features = jax.random.randint(jax.random.key(1), (5, 6), -9, 10).astype(jnp.float32)
    np.testing.assert_array_equal(
        method.predict(Out(logits(made, features), features, {})), logits(plain, features)['target']
    )


def test_all_heads_are_kept_where_prediction_is_more_than_a_selection():
    made = heads(target=4, other=4)
    for predict in (
        lambda out: jax.nn.softmax(out.logits['target']) + jax.nn.softmax(out.logits['other']),
        lambda out: out.logits['target'] + out.maps['last'].mean((1, 2)),
    ):
        assert set(export.plain_heads(Method(loss=None, predict=predict), made)) == {'target', 'other'}
