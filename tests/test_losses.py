import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import losses, mix
from tests.support.common import fixture


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


# --- the authors' numbers ---------------------------------------------------------------------------------------------

PRECISION = pytest.mark.parametrize('x64', [True, False], ids=['float64', 'float32'])


def close(value, expected, x64, rtol=1e-10):
    np.testing.assert_allclose(value, expected, rtol=rtol if x64 else 1e-5)


def close_grad(grad, expected, x64, rtol=1e-10):
    np.testing.assert_allclose(grad, expected, rtol=rtol if x64 else 0, atol=1e-12 if x64 else 1e-5)


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
@PRECISION
def test_smile_equals_the_released_code(case, x64):
    f = fixture('smile')
    with jax.enable_x64(x64):
        folded = mix.fold(jnp.asarray(f['lam_drawn'][case]))
        np.testing.assert_allclose(folded, f['lam'][case], rtol=1e-15 if x64 else 1e-6)
        at = [jnp.asarray(f[name]) for name in ('student_map', 'target_logits', 'source_logits')]
        (total, (target_ce, feature, source_ce)), grads = jax.value_and_grad(
            smile_terms(f, case), argnums=(0, 1, 2), has_aux=True
        )(*at)
        for name, value in dict(total=total, target_ce=target_ce, feature=feature, source_ce=source_ce).items():
            close(value, f[name][case], x64)
        for name, grad in zip(('student_map', 'target_logits', 'source_logits'), grads, strict=True):
            close_grad(grad, f[f'grad_{name}'][case], x64)


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
@PRECISION
def test_mixup_equals_the_authors_code(case, x64):
    f = fixture('mixup')
    rtol = 1e-12 if x64 else 1e-6
    with jax.enable_x64(x64):
        lam, perm = f['lam'][case], jnp.asarray(f['perm'][case])[None]
        image, label, soft = (jnp.asarray(f[name]) for name in ('images', 'labels', 'soft_labels'))
        image_mix = mix.blend(lam, image, mix.partner(image, perm))
        np.testing.assert_allclose(image_mix, f['mixed_images'][case], rtol=rtol, atol=0 if x64 else 1e-6)
        folded = mix.fold(jnp.asarray(lam))
        np.testing.assert_allclose(folded, f['folded_lam'][case], rtol=1e-15 if x64 else 1e-6)
        image_folded = mix.blend(folded, image, mix.partner(image, perm))
        np.testing.assert_allclose(image_folded, f['folded_mixed_images'][case], rtol=rtol, atol=0 if x64 else 1e-6)

        def hard(z):
            return losses.mixed_cross_entropy(z, label, mix.partner(label, perm), lam).mean()

        def softly(z):
            return losses.soft_cross_entropy(z, mix.blend(lam, soft, mix.partner(soft, perm))).mean()

        logits = jnp.asarray(f['logits'])
        for loss, value, grad in ((hard, 'loss', 'grad_logits'), (softly, 'soft_loss', 'soft_grad_logits')):
            np.testing.assert_allclose(loss(logits), f[value][case], rtol=rtol)
            np.testing.assert_allclose(jax.grad(loss)(logits), f[grad][case], rtol=rtol, atol=1e-15 if x64 else 1e-6)


@PRECISION
def test_label_smoothing_equals_torch(x64):
    f = fixture('label_smoothing_bce')
    with jax.enable_x64(x64):
        logits, label, perm = jnp.asarray(f['logits']), jnp.asarray(f['labels']), jnp.asarray(f['perm'])[None]
        for i, epsilon in enumerate(f['epsilon']):
            y = losses.one_hot(label, 10, float(epsilon))
            for name, target in (('', y), ('mixup_', mix.blend(f['lam'], y, mix.partner(y, perm)))):
                value, grad = jax.value_and_grad(lambda z, t=target: losses.soft_cross_entropy(z, t).mean())(logits)
                np.testing.assert_allclose(target, f[f'{name}target'][i], rtol=0, atol=1e-15 if x64 else 1e-6)
                np.testing.assert_allclose(value, f[f'{name}loss'][i], rtol=1e-12 if x64 else 1e-6)
                np.testing.assert_allclose(grad, f[f'{name}grad'][i], rtol=0, atol=1e-15 if x64 else 1e-6)


# --- binary cross-entropy of a softmax --------------------------------------------------------------------------------


@PRECISION
@pytest.mark.parametrize('case', ['mixed', 'smoothed'])
def test_binary_cross_entropy_equals_torch(case, x64):
    f = fixture('label_smoothing_bce')
    with jax.enable_x64(x64):
        target = jnp.asarray(f[f'bce_{case}_target'])
        value, grad = jax.value_and_grad(lambda z: losses.binary_cross_entropy(z, target).mean())(
            jnp.asarray(f['logits'])
        )
        np.testing.assert_allclose(value, f[f'bce_{case}_loss'], rtol=1e-12 if x64 else 1e-6)
        np.testing.assert_allclose(grad, f[f'bce_{case}_grad'], rtol=0, atol=1e-15 if x64 else 1e-6)


@PRECISION
def test_binary_cross_entropy_is_clamped_as_in_torch(x64):
    f = fixture('label_smoothing_bce')
    with jax.enable_x64(x64):
        z, target = jnp.asarray(f['bce_saturated_logits']), jnp.asarray(f['bce_saturated_target'])
        value, grad = jax.value_and_grad(lambda z: losses.binary_cross_entropy(z, target).mean())(z)
        np.testing.assert_allclose(value, f['bce_saturated_loss'], rtol=1e-15)
        assert np.isfinite(grad).all()


def test_binary_cross_entropy_is_accurate_where_the_softmax_saturates():
    # p = (1 - r, r / 2, r / 2) with r = 2 / (2 + e^gap): 1 - p_0 = r is lost in float32 arithmetic from gap 17 on.
    gap = np.array([5.0, 20.0, 40.0, 90.0])
    r = 2 / (2 + np.exp(gap))
    target = np.tile([0.25, 0.75, 0.0], (4, 1))
    log_p = np.stack([np.log1p(-r), np.log(r / 2), np.log(r / 2)], axis=1)
    log_q = np.stack([np.log(r), np.log1p(-r / 2), np.log1p(-r / 2)], axis=1)
    expected = -(target * log_p + (1 - target) * log_q).mean(axis=1)
    logits = jnp.stack([jnp.asarray(gap, jnp.float32), jnp.zeros(4), jnp.zeros(4)], axis=1)
    found = losses.binary_cross_entropy(logits, jnp.asarray(target, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # As p_0 tends to 1 the loss tends to -(0.75 log r + 0.75 log(r / 2)) / 3, where d log r / d z_0 = -1.
    grad = jax.grad(lambda z: losses.binary_cross_entropy(z, jnp.asarray(target, jnp.float32)).sum())(logits)
    np.testing.assert_allclose(grad[1:, 0], 0.5, rtol=1e-6)


@pytest.mark.parametrize('scale', [0.0, 1.0, 1e2, 1e4, 1e30])
@pytest.mark.parametrize('c', [1, 2, 10])
def test_binary_cross_entropy_has_finite_gradients(scale, c):
    z = scale * jax.random.normal(jax.random.key(0), (20, c))
    target = jax.nn.softmax(jax.random.normal(jax.random.key(1), (20, c)))
    value, grad = jax.value_and_grad(lambda z: losses.binary_cross_entropy(z, target).sum())(z)
    assert np.isfinite(value) and np.isfinite(grad).all()


# --- distances to the starting point ----------------------------------------------------------------------------------


def starting_point(f, kind):
    names = [name.replace('.', '__') for name in f['l2sp_param_names']]
    at = {name: jnp.asarray(f[f'l2sp_{kind}__{name}']) for name in names if f'l2sp_{kind}__{name}' in f}
    return {n: w for n, w in at.items() if n[:2] != 'fc'}, {n: w for n, w in at.items() if n[:2] == 'fc'}


@PRECISION
def test_l2sp_equals_the_released_code(x64):
    f = fixture('l2sp_delta')
    with jax.enable_x64(x64):
        (trunk, head), (start, _), (trunk_grad, head_grad) = (
            starting_point(f, kind) for kind in ('target', 'source', 'grad')
        )
        value, grad = jax.value_and_grad(losses.l2sp)(trunk, start)
        close(value, f['l2sp_value_tll'], x64, rtol=1e-12)
        close(value, f['l2sp_value_smile_repo'], x64, rtol=1e-12)
        close(0.5 * losses.squared_norm(head), f['l2_head_value_tll'], x64, rtol=1e-12)
        for name, expected in trunk_grad.items():
            close_grad(grad[name], expected, x64)
        for name, expected in head_grad.items():
            close_grad(jax.grad(losses.squared_norm)(head)[name] / 2, expected, x64)
        # At the starting point both are 0, not NaN.
        value, grad = jax.value_and_grad(losses.l2sp)(start, start)
        assert value == 0 and all((g == 0).all() for g in grad.values())


def test_l2sp_refuses_trees_of_different_structure():
    with pytest.raises(AssertionError, match='[Ss]tructure|keys'):
        losses.l2sp({'a': jnp.ones(2)}, {'b': jnp.ones(2)})


@PRECISION
def test_map_distances_equal_the_released_code(x64):
    f = fixture('l2sp_delta')
    total = {'fea_map': 0.0, 'delta': 0.0}
    with jax.enable_x64(x64):
        for i in range(4):
            student, start = jnp.asarray(f[f'map{i}_target']), jnp.asarray(f[f'map{i}_source'])
            weight = losses.attention(jnp.asarray(f[f'raw_score{i}']))
            np.testing.assert_allclose(weight, f[f'attention{i}'], rtol=1e-12 if x64 else 1e-5)
            width = student.shape[-1]

            @jax.jit
            @jax.value_and_grad
            def plain(x, start=start):
                return losses.map_distance(x, start).sum()

            @jax.jit
            @jax.value_and_grad
            def delta(x, start=start, weight=weight, width=width):
                return 0.5 * width * losses.attention_distance(x, start, weight).sum()

            (fea_map, fea_map_grad), (att, att_grad) = plain(student), delta(student)
            close(att, f['att_value_delta_repo_per_layer'][i], x64, rtol=1e-12)
            close_grad(fea_map_grad, f[f'fea_map_grad{i}'], x64)
            close_grad(att_grad, f[f'att_grad{i}'], x64)
            assert np.abs(delta(start)[1]).max() == np.abs(plain(start)[1]).max() == 0
            total['fea_map'] += fea_map
            total['delta'] += att
            if i == 3:

                def smile(x, start=start, weight=weight):
                    return losses.attention_distance(x, start, weight).sum()

                close(smile(student), f['att_value_smile_repo_layer3'], x64, rtol=1e-12)
                close_grad(jax.grad(smile)(student), f['att_grad_smile_repo_layer3'], x64)
        close(total['fea_map'], f['fea_map_value'], x64, rtol=1e-12)
        close(total['delta'], f['att_value_delta_repo'], x64, rtol=1e-12)


def test_map_distances_by_hand():
    student = jnp.zeros((2, 1, 2, 2)).at[0, 0, 0, 0].set(2.0).at[1, 0, 1, 1].set(3.0)
    start = jnp.zeros_like(student)
    np.testing.assert_allclose(losses.map_distance(student, start), [0.5 * 4, 0.5 * 9])
    weight = jnp.array([0.25, 0.75])
    np.testing.assert_allclose(losses.attention_distance(student, start, weight), [0.25 * 4 / 2, 0.75 * 9 / 2])
    # bfloat16 maps are compared in float32.
    half = losses.map_distance(student.astype(jnp.bfloat16), start.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_attention_is_invariant_to_scale_and_shift_and_uniform_for_equal_scores():
    score = jax.random.normal(jax.random.key(0), (3, 12))
    weight = losses.attention(score)
    np.testing.assert_allclose(weight.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(losses.attention(1e-4 * score + 0.001), weight, rtol=1e-4)
    np.testing.assert_array_equal(jnp.argsort(weight), jnp.argsort(score))
    np.testing.assert_allclose(losses.attention(jnp.full(5, 0.3)), 0.2, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda s: losses.attention(s)[0])(jnp.zeros(5))).all()
    # Scores +-1 have mean 0 and population deviation 1.
    a, b = np.exp([0.2, -0.2]) / np.exp([0.2, -0.2]).sum()
    np.testing.assert_allclose(
        losses.attention(jnp.array([1.0, -1.0, 1.0, -1.0])), np.array([a, b, a, b]) / 2, rtol=1e-6
    )


# --- batch spectral shrinkage -----------------------------------------------------------------------------------------


@PRECISION
@pytest.mark.parametrize('case', ['m0', 'm1', 'm2', 'm3_tall'])
@pytest.mark.parametrize('k', [1, 2])
def test_shrinkage_equals_the_released_code(case, k, x64):
    f = fixture('bss')
    with jax.enable_x64(x64):
        features = jnp.asarray(f[f'{case}__features'])
        value, grad = jax.jit(jax.value_and_grad(lambda x: losses.batch_spectral_shrinkage(x, k)))(features)
        expected, slope = f[f'{case}__value_k{k}'], f[f'{case}__grad_k{k}']
        # float32: of max(1, |expected|); a small singular value is known to eps times the largest one.
        np.testing.assert_allclose(value, expected, rtol=1e-10 if x64 else 1e-5, atol=0 if x64 else 1e-5)
        np.testing.assert_allclose(grad, slope, rtol=0, atol=1e-9 if x64 else 1e-5)


@PRECISION
@pytest.mark.parametrize(('case', 'k'), [('rankdef', 1), ('rankdef', 2), ('dup', 1), ('dup', 2)])
def test_shrinkage_of_rank_deficient_features(case, k, x64):
    f = fixture('bss')
    with jax.enable_x64(x64):
        features = jnp.asarray(f[f'{case}__features'])
        value, grad = jax.value_and_grad(losses.batch_spectral_shrinkage)(features, k)
        assert np.isfinite(grad).all()
        if f[f'{case}__value_k{k}'] < 1e-20:
            assert abs(value) < (1e-20 if x64 else 1e-6)
            assert jnp.abs(grad).max() < (1e-12 if x64 else 1e-4)
        else:
            close(value, f[f'{case}__value_k{k}'], x64)
            assert abs(float(jnp.abs(grad).max()) - f[f'{case}__grad_k{k}_absmax']) < (1e-9 if x64 else 1e-5)


def test_shrinkage_of_the_pooled_map():
    f = fixture('bss')
    with jax.enable_x64(True):
        pooled = jnp.asarray(f['smile_map']).mean(axis=(1, 2))
        np.testing.assert_allclose(losses.batch_spectral_shrinkage(pooled), f['smile_value'], rtol=1e-10)


def test_shrinkage_where_singular_values_repeat():
    of = jax.jit(jax.value_and_grad(losses.batch_spectral_shrinkage), static_argnums=1)
    # 2 I: every direction is a smallest one; any choice has value 4 and a gradient of norm 2 sigma = 4.
    value, grad = of(2 * jnp.eye(5, 7), 1)
    np.testing.assert_allclose([value, jnp.linalg.norm(grad)], [4, 4], rtol=1e-6)
    value, grad = of(jnp.ones((6, 4)), 2)
    assert abs(value) < 1e-10 and np.isfinite(grad).all()
    value, grad = of(jnp.zeros((6, 4)), 1)
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize('shape', [(48, 192), (192, 48), (32, 32)])
@pytest.mark.parametrize('decades', [0, 1, 2, 3, 4])
@pytest.mark.parametrize('k', [1, 5])
def test_shrinkage_in_float32_loses_only_roundings_of_the_largest_value(shape, decades, k):
    """Singular values from 1 down to 10^-decades; the eigenvectors of one Gram matrix would be off by 50 % at 3."""
    rng, n = np.random.default_rng(0), min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((size, n)))[0] for size in shape)
    s = np.logspace(0, -decades, n) if decades else np.linspace(1, 0.5, n)
    features = ((u * s) @ v.T).astype(np.float32)
    left, values, right = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    exact = 2 * (left[:, -k:] * values[-k:]) @ right[-k:]
    value, grad = jax.value_and_grad(losses.batch_spectral_shrinkage)(jnp.asarray(features), k)
    np.testing.assert_allclose(value, (values[-k:] ** 2).sum(), rtol=1e-3)
    assert np.linalg.norm(grad - exact) / np.linalg.norm(exact) < 1e-4 + 4 * 2**-23 * 10**decades


def test_shrinkage_of_features_that_are_not_numbers_is_not_a_number():
    value, grad = jax.value_and_grad(losses.batch_spectral_shrinkage)(jnp.full((4, 6), jnp.nan))
    assert np.isnan(value) and np.isnan(grad).any()


def test_shrinkage_of_all_values_is_the_squared_norm():
    features = jax.random.normal(jax.random.key(0), (5, 8))
    for k in (5, 9):
        value, grad = jax.value_and_grad(losses.batch_spectral_shrinkage)(features, k)
        np.testing.assert_allclose(value, jnp.sum(features**2), rtol=1e-5)
        np.testing.assert_allclose(grad, 2 * features, atol=1e-5)
