import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import losses, mix
from tests.common import fixture


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2.0, 1.0], [1.0, 1.0, 8.0]]))
    expected = -np.log([2 / 4, 1 / 10])
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([1, 0])), expected, rtol=1e-6)


def test_soft_cross_entropy_of_one_hot_is_cross_entropy():
    logits = jax.random.normal(jax.random.key(0), (5, 7))
    label = jnp.arange(5)
    soft = losses.soft_cross_entropy(logits, losses.one_hot(label, 7))
    np.testing.assert_allclose(soft, losses.cross_entropy(logits, label), rtol=1e-6)


def test_label_smoothing_includes_the_true_class():
    expected = [[0.1 / 4, 0.9 + 0.1 / 4, 0.1 / 4, 0.1 / 4]]
    np.testing.assert_allclose(losses.one_hot(jnp.array([1]), 4, 0.1), expected, rtol=1e-6)


def test_mixed_cross_entropy_takes_one_lam_or_one_an_example():
    logits = jax.random.normal(jax.random.key(0), (3, 4))
    a, b = jnp.array([0, 1, 2]), jnp.array([3, 1, 0])
    each = losses.mixed_cross_entropy(logits, a, b, jnp.array([0.3, 0.3, 0.3]))
    np.testing.assert_allclose(each, losses.mixed_cross_entropy(logits, a, b, jnp.array(0.3)), rtol=1e-6)
    target = 0.3 * losses.one_hot(a, 4) + 0.7 * losses.one_hot(b, 4)
    np.testing.assert_allclose(each, losses.soft_cross_entropy(logits, target), rtol=1e-6)


def test_safe_norm_has_gradient_zero_at_zero():
    value, grad = jax.value_and_grad(losses.safe_norm)(jnp.zeros((2, 3)))
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))
    x = jnp.array([3.0, 4.0])
    np.testing.assert_allclose(jax.grad(losses.safe_norm)(x), x / 5, rtol=1e-6)


def test_global_label_is_bounded_for_any_logits():
    c = 10
    p = losses.global_label(100 * jax.random.normal(jax.random.key(0), (50, c)))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert p.min() >= 1 / (1 + (c - 1) * np.e) - 1e-6
    assert p.max() <= np.e / (np.e + c - 1) + 1e-6


# --- the authors' numbers, in float64 ---------------------------------------------------------------------------------


def smile_terms(f, case):
    lam, perm = f['lam'][case], jnp.asarray(f['perm'][case])[None]

    def terms(student_map, target_logits, source_logits):
        label = jnp.asarray(f['labels'])
        target_ce = losses.mixed_cross_entropy(target_logits, label, mix.partner(label, perm), lam).mean()
        teacher = jnp.asarray(f['teacher_map'])
        feature = losses.feature_mixup(student_map, mix.blend(lam, teacher, mix.partner(teacher, perm)))
        source = jax.nn.softmax(jnp.asarray(f['teacher_logits']))
        source_ce = losses.soft_cross_entropy(source_logits, mix.blend(lam, source, mix.partner(source, perm))).mean()
        return target_ce + 0.01 * feature + 0.1 * source_ce, (target_ce, feature, source_ce)

    return terms


@pytest.mark.parametrize('case', range(5))
def test_smile_equals_the_released_code(case):
    f = fixture('smile')
    with jax.enable_x64(True):
        np.testing.assert_allclose(mix.fold(jnp.asarray(f['lam_drawn'][case])), f['lam'][case], rtol=1e-15)
        at = [jnp.asarray(f[name]) for name in ('student_map', 'target_logits', 'source_logits')]
        (total, (target_ce, feature, source_ce)), grads = jax.value_and_grad(
            smile_terms(f, case), argnums=(0, 1, 2), has_aux=True
        )(*at)
        for name, value in dict(total=total, target_ce=target_ce, feature=feature, source_ce=source_ce).items():
            np.testing.assert_allclose(value, f[name][case], rtol=1e-10)
        for name, grad in zip(('student_map', 'target_logits', 'source_logits'), grads, strict=True):
            np.testing.assert_allclose(grad, f[f'grad_{name}'][case], rtol=1e-10, atol=1e-12)


def test_smile_feature_term_is_zero_without_nan_where_student_equals_teacher():
    f = fixture('smile')
    with jax.enable_x64(True):
        teacher, perm = jnp.asarray(f['teacher_map']), jnp.asarray(f['zero_case_perm'])[None]
        same = mix.blend(f['zero_case_lam'], teacher, mix.partner(teacher, perm))
        value, grad = jax.value_and_grad(losses.feature_mixup)(same, same)
        assert value == f['zero_case_feature'] == 0
        assert jnp.abs(grad).max() == f['zero_case_grad_absmax'] == 0


def test_smile_feature_term_grows_with_the_root_of_the_batch():
    a, b = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 5))
    once, twice = losses.feature_mixup(a, b), losses.feature_mixup(jnp.tile(a, (2, 1, 1, 1)), jnp.tile(b, (2, 1, 1, 1)))
    np.testing.assert_allclose(twice, once * 2**0.5, rtol=1e-6)
    vectors = losses.feature_mixup(a.mean((1, 2)), b.mean((1, 2)))
    np.testing.assert_allclose(vectors, jnp.linalg.norm(a.mean((1, 2)) - b.mean((1, 2))), rtol=1e-6)


@pytest.mark.parametrize('case', range(5))
def test_mixup_equals_the_authors_code(case):
    f = fixture('mixup')
    with jax.enable_x64(True):
        lam, perm = f['lam'][case], jnp.asarray(f['perm'][case])[None]
        image, label, soft = (jnp.asarray(f[name]) for name in ('images', 'labels', 'soft_labels'))
        image_mix = mix.blend(lam, image, mix.partner(image, perm))
        np.testing.assert_allclose(image_mix, f['mixed_images'][case], rtol=1e-12)
        folded = mix.fold(jnp.asarray(lam))
        np.testing.assert_allclose(folded, f['folded_lam'][case], rtol=1e-15)
        image_folded = mix.blend(folded, image, mix.partner(image, perm))
        np.testing.assert_allclose(image_folded, f['folded_mixed_images'][case], rtol=1e-12)

        def hard(z):
            return losses.mixed_cross_entropy(z, label, mix.partner(label, perm), lam).mean()

        def softly(z):
            return losses.soft_cross_entropy(z, mix.blend(lam, soft, mix.partner(soft, perm))).mean()

        logits = jnp.asarray(f['logits'])
        for loss, value, grad in ((hard, 'loss', 'grad_logits'), (softly, 'soft_loss', 'soft_grad_logits')):
            np.testing.assert_allclose(loss(logits), f[value][case], rtol=1e-12)
            np.testing.assert_allclose(jax.grad(loss)(logits), f[grad][case], rtol=1e-12, atol=1e-15)
