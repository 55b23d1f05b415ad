"""Properties of vision transformers, on narrow ones. test_narrow.py and test_vit_parity.py compare them with timm's."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models import transformer
from mixjax.models.dinov3 import DinoV3
from mixjax.models.net import from_linen
from mixjax.models.transformer import Form
from mixjax.models.vit import VisionTransformer
from mixjax.models.weights import tensor_names
from tests.support import trace
from tests.support.common import assert_trees_equal
from tests.support.filled import filled

FORM = Form(16, 2, 32, scale=1e-5)
PLAIN = VisionTransformer(FORM, 4, 4, 6)
KINDS = {
    'plain': PLAIN,
    'packed': PLAIN.clone(form=FORM._replace(gate='packed', activation='silu'), registers=2, placed=False),
    'map': PLAIN.clone(form=FORM._replace(scale=0.0, activation='gelu_tanh'), cls=False, pool='map'),
    'clip': PLAIN.clone(form=FORM._replace(scale=0.0, activation='quick_gelu'), before=True),
    'dinov3': DinoV3(FORM._replace(gate='split', bias='q, v'), 4, 4),
}


def image_of(rows, columns, batch=2):
    return jnp.asarray(np.random.default_rng(3).standard_normal((batch, rows, columns, 3)), jnp.float32)


def made(backbone, heads=None):
    net = from_linen(backbone)
    shape = jnp.zeros((1, 24, 24, 3))
    return net, filled(lambda: net.init(jax.random.key(0), shape, {'target': 3} if heads is None else heads))


# --- images -----------------------------------------------------------------------------------------------------------


def test_an_image_that_is_no_whole_number_of_patches_is_refused():
    net, variables = made(PLAIN)
    with pytest.raises(UserError, match='24x23 pixels .* patches of 4x4: make the side 23 .* of 4, .* 20 or 24 '):
        net.apply(variables, image_of(24, 23), train=False)
    with pytest.raises(UserError, match='make the side 3 a multiple of 4, for example 4 '):
        net.apply(variables, image_of(3, 24), train=False)
    assert transformer.grid_of(jnp.zeros((1, 384, 378, 3)), 14, spare=6) == (27, 27)
    with pytest.raises(UserError, match='the side 385'):
        transformer.grid_of(jnp.zeros((1, 385, 378, 3)), 14, spare=6)


def test_pixels_to_spare_are_not_seen():
    net, variables = made(PLAIN.clone(spare=2))
    image = image_of(26, 24)
    wide, narrow = (jax.jit(net.apply, static_argnames='train')(variables, x, train=False)[0].features
                    for x in (image, image[:, :24]))  # fmt: skip
    np.testing.assert_array_equal(wide, narrow)


@pytest.mark.parametrize('kind', KINDS)
def test_rows_are_rows(kind):
    """The map of an image that is wider than high; a patch that changes is where it is in the image."""
    net, variables = made(KINDS[kind])
    image = image_of(12, 20)
    run = jax.jit(lambda x: net.apply(variables, x, train=False)[0])
    before, after = run(image), run(image.at[:, 4:8, 12:16].add(3.0))
    assert before.maps['last'].shape == (2, 3, 5, 16)
    moved = np.abs(after.maps['stage1'] - before.maps['stage1']).sum((0, 3))
    assert np.unravel_index(moved.argmax(), moved.shape) == (1, 3)
    assert np.abs(after.features - before.features).max() > 1e-3


def test_positions_of_the_published_grid_are_not_touched():
    positions = jnp.ones((1, 36, 4))
    assert transformer.resized(positions, (6, 6), (6, 6)) is positions
    matrix = transformer.resize_matrix(37, 16)
    assert matrix.shape == (16, 37)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-14)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-14)  # as seen from the other side
    np.testing.assert_allclose(transformer.resize_matrix(5, 5), np.eye(5), atol=1e-14)


# --- taps and maps ----------------------------------------------------------------------------------------------------


def test_taps_have_the_tokens_in_front_of_the_patches_too():
    net, variables = made(KINDS['packed'])
    image = image_of(24, 24)

    def out(where='', change=lambda h: h):
        return net.apply(variables, image, train=False, tap=lambda name, h: change(h) if name == where else h)[0]

    plain = out()
    silent = out('stage4', lambda h: h.at[:, 0].set(0.0))  # the class token alone
    np.testing.assert_array_equal(silent.maps['last'], plain.maps['last'])
    assert np.abs(silent.features - plain.features).max() > 0.1
    # `.conv` is the MLP before LayerScale: without it, the block adds nothing after its attention.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if [key.key for key in path[2:5]] == ['stage3', 'block0', 'ls2'] else x, variables
    )
    without, _ = net.apply(params, image, train=False)
    zeroed = out('stage3.conv', lambda h: 0 * h)
    np.testing.assert_allclose(zeroed.features, without.features, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(zeroed.maps['stage3.conv'], 0)
    assert np.abs(without.maps['stage3.conv'] - plain.maps['stage3.conv']).max() == 0


@pytest.mark.parametrize('pool', ['token', 'mean'])
def test_features_are_pooled_from_the_last_map(pool):
    net, variables = made(PLAIN.clone(pool=pool))
    out, _ = net.apply(variables, image_of(24, 24), train=False)
    same = np.allclose(out.features, out.maps['last'].mean((1, 2)), rtol=1e-5, atol=1e-5)
    assert same == (pool == 'mean')


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', KINDS)
def test_all_sums_of_a_bfloat16_network_are_float32(kind):
    net, variables = made(KINDS[kind].clone(dtype=jnp.bfloat16))
    image = image_of(12, 20, 8)  # the positions are resized

    def loss(params):
        return net.apply({'params': params}, image, train=True)[0].logits['target'].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(variables['params'])
    assert {str(leaf.dtype) for leaf in jaxpr.out_avals} == {'float32'}
    narrow = trace.primitives_of(jaxpr, jnp.bfloat16)
    assert {'conv_general_dilated', 'dot_general'} <= narrow and not narrow & trace.WIDE
    exact, _ = made(KINDS[kind])
    want, _ = exact.apply(variables, image, train=False)
    said, _ = net.apply(variables, image, train=False)
    assert {leaf.dtype for leaf in said.maps.values()} == {jnp.dtype(jnp.bfloat16)}
    error = np.linalg.norm(said.features - want.features) / np.linalg.norm(want.features)
    assert said.features.dtype == jnp.float32 and 0 < error < 0.03


@pytest.mark.parametrize('kind', ['packed', 'dinov3'])
def test_remat_changes_no_number_and_keeps_less(kind):
    image, rng = image_of(24, 24), jax.random.key(5)
    grads, kept = [], []
    for remat in (False, True):
        net, variables = made(KINDS[kind].clone(remat=remat, drop_path=0.4))
        seen = []

        def loss(params, net=net, seen=seen):
            tap = lambda name, h: seen.append(name) or h  # noqa: E731
            out, _ = net.apply({'params': params}, image, train=True, rng=rng, tap=tap)
            return jnp.square(out.logits['target']).sum()

        grads.append(jax.jit(jax.grad(loss))(variables['params']))
        assert seen[:3] == ['input', 'stem', 'stage1.conv'] and len(seen) == 10
        kept.append(str(jax.make_jaxpr(jax.grad(loss))(variables['params'])).count('remat'))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert kept[0] == 0 and kept[1] >= 4


def test_stochastic_depth_leaves_out_whole_examples():
    net, variables = made(PLAIN.clone(drop_path=0.9))
    image = jnp.broadcast_to(image_of(24, 24, 1), (32, 24, 24, 3))
    assert [stage.drops for stage in transformer.stages(FORM, 4, 0.9, False, None)] == [(0.0,), (0.3,), (0.6,), (0.9,)]

    def features(train, seed=None):
        rng = None if seed is None else jax.random.key(seed)
        return np.asarray(net.apply(variables, image, train=train, rng=rng)[0].features)

    off = features(False)
    np.testing.assert_allclose(off, off[:1].repeat(32, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(features(True), off)  # without a key it is off
    on = features(True, 1)
    assert len(np.unique(on.round(4), axis=0)) > 4
    np.testing.assert_array_equal(on, features(True, 1))
    assert not np.array_equal(on, features(True, 2))


def test_the_registry_sets_both_fields():
    built = models.build('vit_tiny_patch16_224', remat=True, drop_path=0.25)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: built.init(jax.random.key(0), x, {'target': 2}), image)

    def loss(params, x):
        return built.apply({'params': params}, x, train=True, rng=jax.random.key(0))[0].logits['target'].sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(variables['params'], image))
    assert 'remat' in text and 'random_bits' in text


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_by_hand():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 7, 3, 8))
    scores = np.einsum('bnhd,bmhd->bhnm', q, k) / np.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = np.einsum('bhnm,bmhd->bnhd', weights / weights.sum(-1, keepdims=True), v)
    with jax.enable_x64(True):
        np.testing.assert_allclose(transformer.attend(*map(jnp.asarray, (q, k, v))), want, atol=1e-14)
    said = transformer.attend(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(said, want, atol=2e-6)
    said = transformer.attend(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert said.dtype == jnp.bfloat16
    np.testing.assert_allclose(said.astype(jnp.float32), want, atol=0.03)


@pytest.mark.parametrize(
    ('platform', 'version', 'capability', 'largest'),
    [('gpu', 'cuda 12', '9.0', 256), ('gpu', 'cuda 12', '8.6', 128), ('gpu', 'cuda 12', '7.5', 0),
     ('gpu', 'rocm 6', '9.0', 0), ('cpu', 'cpu', '9.0', 0)],
)  # fmt: skip
def test_cudnn_is_used_where_it_can(monkeypatch, platform, version, capability, largest):
    client = SimpleNamespace(platform_version=version)
    device = SimpleNamespace(platform=platform, client=client, compute_capability=capability)
    monkeypatch.setattr(jax, 'local_devices', lambda: [device])
    transformer._largest_head.cache_clear()
    try:
        chosen = {head: transformer.implementation(jnp.bfloat16, head) for head in (64, 72, 100, 128, 256, 264)}
        assert chosen == {head: 'cudnn' if head % 8 == 0 and head <= largest else 'xla' for head in chosen}
        assert transformer.implementation(jnp.float32, 64) == 'xla'
    finally:
        transformer._largest_head.cache_clear()


# --- files ------------------------------------------------------------------------------------------------------------


def test_positions_of_a_file_for_other_images_are_resized():
    for kind in ('plain', 'packed', 'map'):
        backbone = KINDS[kind]
        other = backbone.clone(grid=9)
        _, variables = made(other, {'source': 3})
        _, wanted = made(backbone, {'source': 3})
        for dialect in tensor_names.dialects(backbone):
            tensors = tensor_names.to_torch(other, variables, dialect)
            read = tensor_names.from_torch(backbone, tensors, wanted)
            stem, before = read['params']['backbone']['stem'], 0 if kind != 'plain' else 1
            old = variables['params']['backbone']['stem']['pos_embed']
            want = transformer.resized(old[:, before:], (9, 9), (6, 6))
            np.testing.assert_allclose(stem['pos_embed'][:, before:], want, atol=1e-6)
            np.testing.assert_array_equal(stem['pos_embed'][:, :before], old[:, :before])
            np.testing.assert_array_equal(
                stem['conv']['kernel'], variables['params']['backbone']['stem']['conv']['kernel']
            )
    tensors = {**tensors, 'vision_model.embeddings.position_embedding.weight': np.zeros((35, 16), np.float32)}
    with pytest.raises(UserError, match='position_embedding.weight has shape'):
        tensor_names.from_torch(backbone, tensors, wanted)


def test_the_position_of_a_class_token_is_folded_into_it():
    backbone = KINDS['packed']
    _, variables = made(backbone, {})
    for dialect, prefix in (('dinov2', ''), ('transformers', 'embeddings.')):
        tensors = dict(tensor_names.to_torch(backbone, variables, dialect))
        positions = 'position_embeddings' if prefix else 'pos_embed'
        assert tensors[f'{prefix}{positions}'].shape == (1, 37, 16)
        assert tensors[f'{prefix}mask_token'].shape == (1, 16)
        assert_trees_equal(tensor_names.from_torch(backbone, tensors, variables), variables)
        tensors[f'{prefix}{positions}'] = tensors[f'{prefix}{positions}'] + np.eye(1, 37).reshape(1, 37, 1)
        stem = tensor_names.from_torch(backbone, tensors, variables)['params']['backbone']['stem']
        old = variables['params']['backbone']['stem']
        np.testing.assert_allclose(stem['cls_token'], old['cls_token'] + 1, rtol=1e-6)
        np.testing.assert_array_equal(stem['pos_embed'], old['pos_embed'])


def test_a_mask_token_does_not_hide_that_a_file_is_facebooks():
    _, variables = made(PLAIN, {})
    tensors = tensor_names.to_torch(PLAIN, variables, 'dinov2')
    assert (
        'mask_token' in tensors
        and tensors.keys() - {'mask_token'} == tensor_names.to_torch(PLAIN, variables, 'timm').keys()
    )
    assert_trees_equal(tensor_names.from_torch(PLAIN, tensors, variables), variables)
    with pytest.raises(UserError, match='pre_logits.fc.weight has no place'):
        tensor_names.from_torch(PLAIN, {**tensors, 'pre_logits.fc.weight': np.zeros((2, 2))}, variables)


def test_clips_projection_is_no_classifier():
    backbone = KINDS['clip']
    _, variables = made(backbone, {'source': 12})
    tensors = dict(tensor_names.to_torch(backbone, variables, 'timm'))
    assert tensor_names.classes_in(backbone, tensors) == 12
    tensors['head.bias'] = np.zeros(12, np.float32)  # as timm has it
    assert tensor_names.classes_in(backbone, tensors) == 0
    bare = {'params': {'backbone': variables['params']['backbone']}}
    assert_trees_equal(tensor_names.from_torch(backbone, tensors, bare), bare)
    assert tensor_names.classes_in(PLAIN, tensors) == 12  # only CLIP's


def test_biases_that_are_zero_may_be_left_away():
    """Facebook's DINOv3 files have a bias of the key too, which is masked; timm has networks with and without them."""
    _, variables = made(KINDS['dinov3'], {})
    tensors = dict(tensor_names.to_torch(KINDS['dinov3'], variables, 'dinov3'))
    assert tensors['blocks.0.attn.qkv.bias'].shape == (48,) and not tensors['blocks.0.attn.qkv.bias'][16:32].any()
    extra = {'rope_embed.periods': np.ones(2), 'blocks.0.attn.qkv.bias_mask': np.ones(48)}
    assert_trees_equal(tensor_names.from_torch(KINDS['dinov3'], {**tensors, **extra}, variables), variables)
    plain = KINDS['dinov3'].clone(form=KINDS['dinov3'].form._replace(bias=''))
    _, wanted = made(plain, {})
    with pytest.raises(UserError, match='blocks.3.attn.qkv.bias has no place'):
        tensor_names.from_torch(plain, tensors, wanted)
    zero = {name: 0 * x if name.endswith('qkv.bias') else x for name, x in tensors.items()}
    read = tensor_names.from_torch(plain, zero, wanted)
    block = read['params']['backbone']['stage1']['block0']['attn']
    np.testing.assert_array_equal(
        block['qkv']['kernel'], variables['params']['backbone']['stage1']['block0']['attn']['qkv']['kernel']
    )
