"""timm's vision transformers with random weights: the same features, logits, maps and gradients at several sizes.

pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 timm==1.0.31 transformers ...
pytest -m parity tests/models/test_vit_parity.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from mixjax import models
from mixjax.models import transformer
from mixjax.models.dinov3 import DinoV3
from mixjax.models.net import from_linen
from mixjax.models.transformer import Form
from mixjax.models.vit import VisionTransformer
from mixjax.models.weights import tensor_names
from tests.support import with_torch
from tests.support.filled import filled

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]
torch = pytest.importorskip('torch', reason='torch is not installed')
CLASSES = 7

# architecture -> sizes of images; the positions are for the published size
FORWARD = {
    'vit_tiny_patch16_224': [(224, 224), (96, 160), (384, 384)],
    'vit_small_patch32_224': [(224, 224), (320, 96)],
    'vit_small_patch16_384': [(384, 384), (224, 224)],
    'vit_base_patch32_384': [(384, 384), (64, 96)],
    'vit_base_patch16_224': [(224, 224), (64, 96)],
    'vit_base_patch8_224': [(224, 224), (64, 96)],
    'vit_large_patch16_224': [(64, 96)],
    'deit3_small_patch16_224': [(224, 224), (96, 160), (384, 384)],
    'deit3_medium_patch16_224': [(224, 224), (64, 96)],
    'deit3_base_patch16_384': [(384, 384), (64, 96)],
    'deit3_large_patch16_224': [(64, 96)],
    'vit_base_patch32_clip_224': [(224, 224), (96, 160), (320, 320)],
    'vit_base_patch32_clip_quickgelu_224': [(224, 224)],
    'vit_base_patch16_clip_224': [(64, 96)],
    'vit_large_patch14_clip_224': [(70, 98)],
    'vit_large_patch14_clip_quickgelu_336': [(70, 98)],
    'vit_small_patch14_dinov2': [(518, 518), (224, 224), (98, 154)],
    'vit_base_patch14_dinov2': [(224, 224), (98, 154)],
    'vit_large_patch14_dinov2': [(98, 154)],
    'vit_small_patch14_reg4_dinov2': [(518, 518), (224, 224), (98, 154)],
    'vit_base_patch14_reg4_dinov2': [(224, 224), (98, 154)],
    'vit_large_patch14_reg4_dinov2': [(98, 154)],
    'vit_base_patch16_siglip_224': [(224, 224), (96, 160), (384, 384)],
    'vit_base_patch16_siglip_512': [(64, 96)],
    'vit_base_patch32_siglip_256': [(256, 256), (96, 160), (320, 320)],
    'vit_base_patch32_siglip_gap_256': [(256, 256), (96, 160)],
    'vit_large_patch16_siglip_256': [(64, 96)],
    'vit_large_patch16_siglip_512': [(64, 96)],
    'vit_small_patch16_dinov3': [(256, 256), (96, 160), (384, 384)],
    'vit_small_patch16_dinov3_qkvb': [(96, 160)],
    'vit_small_plus_patch16_dinov3': [(256, 256), (96, 160)],
    'vit_base_patch16_dinov3_qkvb': [(256, 256), (64, 96)],
    'vit_large_patch16_dinov3': [(64, 96)],
}
GRADIENT = {
    'vit_tiny_patch16_224': 64,
    'deit3_small_patch16_224': 64,
    'vit_base_patch32_clip_quickgelu_224': 96,
    'vit_small_patch14_dinov2': 56,
    'vit_small_patch14_reg4_dinov2': 56,
    'vit_base_patch32_siglip_256': 96,
    'vit_small_patch16_dinov3': 64,
    'vit_small_plus_patch16_dinov3_qkvb': 80,
}
PREFIX = ('vit_', 'deit3_')
NAMES = [name for name in models.names() if name.startswith(PREFIX)]


def made(name, **options):
    _, _, timm = with_torch.libraries()
    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)


def at_size(model, state, size):
    """The model in float64 for images of another size; timm itself resizes the positions in float32."""
    state = {name: torch.from_numpy(np.asarray(value)).double() for name, value in state.items()}
    old = model.patch_embed.grid_size
    model = model.double().eval()
    model.set_input_size(size)
    new = model.patch_embed.grid_size
    if 'pos_embed' in state and old != new:
        before = state['pos_embed'].shape[1] - old[0] * old[1]
        grid = state['pos_embed'][:, before:].reshape(1, *old, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=new, mode='bicubic', antialias=True)
        grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
        state['pos_embed'] = torch.cat([state['pos_embed'][:, :before], grid], dim=1)
    model.load_state_dict(state)
    return model


def image_of(size, seed=1):
    return np.random.default_rng(seed).standard_normal((2, *size, 3))


def in_torch(image):
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def ours(network, state, dtype, side):
    """The net, and its variables."""
    net = models.build(network) if isinstance(network, str) else from_linen(network)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    wanted = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, {'source': CLASSES}), image)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), wanted)
    return net, jax.tree.map(jnp.asarray, tensor_names.from_torch(network, state, wanted))


def apart(said, want):
    want = np.asarray(want)
    assert np.shape(said) == want.shape
    return float(np.abs(np.asarray(said, np.float64) - want).max() / max(1.0, np.abs(want).max()))


@pytest.mark.parametrize('name', FORWARD)
def test_features_logits_and_maps_are_timms(name, record_property):
    model = made(name)
    state = with_torch.randomise(model)
    ends = [int(end) - 1 for end in np.cumsum(transformer.counts(len(model.blocks)))]
    side, worst = models.image_settings(name)['crop'], {np.float64: 0.0, np.float32: 0.0}
    for size in FORWARD[name]:
        there, image = at_size(made(name), state, size), image_of(size)
        with torch.no_grad():
            last, between = there.forward_intermediates(in_torch(image), indices=ends)
            features = there.forward_head(last, pre_logits=True)
            logits = there.forward_head(last)
        assert (logits[0] - logits[1]).abs().max() > 1e-3  # they depend on the image
        want = {
            'features': features,
            'logits': logits,
            'last': last[:, there.num_prefix_tokens :].reshape(2, *between[0].shape[2:], -1),
            **{f'stage{i + 1}': h.permute(0, 2, 3, 1) for i, h in enumerate(between)},
        }
        for dtype, bound in ((np.float64, 1e-9), (np.float32, 1e-4)):
            with jax.enable_x64(dtype == np.float64):
                net, variables = ours(name, state, dtype, side)
                out, _ = jax.jit(lambda v, x, n=net: n.apply(v, x, train=False))(variables, jnp.asarray(image, dtype))
            said = {'features': out.features, 'logits': out.logits['source'], **out.maps}
            errors = {part: apart(said[part], value) for part, value in want.items()}
            worst[dtype] = max(worst[dtype], *errors.values())
            assert max(errors.values()) < bound, (size, dtype, errors)
    record_property('error', worst)
    print(f'{name}: {len(state)} tensors, {worst[np.float64]:.1e}, {worst[np.float32]:.1e} in float32')


@pytest.mark.parametrize('name', GRADIENT)
def test_gradients_are_timms(name, record_property):
    side, label = GRADIENT[name], np.array([1, 4])
    model = made(name, img_size=side)  # the positions are for this size: timm passes no gradient through a resize
    state = with_torch.randomise(model)
    image = image_of((side, side))
    torch.nn.functional.cross_entropy(model.double().eval()(in_torch(image)), torch.from_numpy(label)).backward()
    want = {key: value.grad.numpy() for key, value in model.named_parameters()}
    backbone = models.BACKBONES[name]()
    if 'pos_embed' in state:
        backbone = backbone.clone(grid=side // backbone.patch)
    with jax.enable_x64(True):
        net, variables = ours(backbone, state, np.float64, side)

        def loss(params):
            out, _ = net.apply({'params': params}, jnp.asarray(image), train=True)
            return optax.softmax_cross_entropy_with_integer_labels(out.logits['source'], label).mean()

        grads = jax.jit(jax.grad(loss))(variables['params'])
    said = tensor_names.to_torch(backbone, {'params': jax.device_get(grads)}, 'timm')
    assert said.keys() == want.keys()
    scale = max(np.abs(value).max() for value in want.values())
    error = max(np.abs(said[key] - value).max() for key, value in want.items()) / scale
    # The bias of a key shifts all scores of a query alike, so nothing depends on it; all else has a gradient.
    without = [key for key, value in want.items() if np.abs(value).max() < 1e-9 * scale]
    assert not without, without
    record_property('error', float(error))
    print(f'{name}: gradient {error:.1e}')
    assert error < 1e-9


@pytest.mark.parametrize('name', NAMES)
def test_shapes_are_timms(name):
    """Of all, also of those that are too large to compute here."""
    with torch.device('meta'):
        model = made(name)
    state = model.state_dict()
    backbone = models.BACKBONES[name]()
    net, side = models.build(name), models.image_settings(name)['crop']
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    wanted = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, {'source': CLASSES}), image)
    shapes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        keys = tuple(key.key for key in path)
        shapes[tensor_names._name(tensor_names.dialects(backbone)['timm'], keys)] = tuple(
            leaf.shape[i] for i in tensor_names._back(keys[-1], leaf.shape)
        )
    assert shapes == {key: tuple(value.shape) for key, value in state.items()}
    image, config = models.image_settings(name), model.default_cfg
    assert side == config['input_size'][-1]
    assert image['interpolation'] == config['interpolation'] == 'bicubic'


def test_positions_are_resized_as_in_torch():
    rng = np.random.default_rng(0)
    for old, new in [((7, 7), (14, 14)), ((37, 37), (16, 16)), ((16, 16), (5, 23)), ((4, 4), (3, 5)), ((3, 3), (1, 2))]:
        positions = rng.standard_normal((1, old[0] * old[1], 6))
        there = torch.from_numpy(positions).reshape(1, *old, 6).permute(0, 3, 1, 2)
        want = torch.nn.functional.interpolate(there, size=new, mode='bicubic', antialias=True)
        with jax.enable_x64(True):
            said = transformer.resized(jnp.asarray(positions), old, new)
        np.testing.assert_allclose(said[0].reshape(*new, 6), want[0].permute(1, 2, 0), rtol=0, atol=1e-12)


# --- other libraries --------------------------------------------------------------------------------------------------

FORM = Form(16, 4, 32, eps=1e-6)
SCALED = FORM._replace(scale=1e-5)
NARROW = {'hidden_size': 16, 'num_hidden_layers': 5, 'num_attention_heads': 4, 'image_size': 40, 'patch_size': 8}
# name -> (our network, transformers' class and config, its settings)
TRANSFORMERS = {
    'vit': (
        VisionTransformer(FORM, 5, 8, 5),
        'ViTForImageClassification', 'ViTConfig',
        {'intermediate_size': 32, 'layer_norm_eps': 1e-6, 'num_labels': CLASSES},
    ),
    'dinov2': (VisionTransformer(SCALED, 5, 8, 5), 'Dinov2Model', 'Dinov2Config', {'mlp_ratio': 2}),
    'dinov2, gated': (
        VisionTransformer(SCALED._replace(gate='packed', hidden=48, activation='silu'), 5, 8, 5),
        'Dinov2Model', 'Dinov2Config',
        {'mlp_ratio': 4, 'use_swiglu_ffn': True},
    ),
    'dinov2, registers': (
        VisionTransformer(SCALED, 5, 8, 5, registers=4, placed=False),
        'Dinov2WithRegistersModel', 'Dinov2WithRegistersConfig',
        {'mlp_ratio': 2},
    ),
    'siglip': (
        VisionTransformer(FORM._replace(activation='gelu_tanh'), 5, 8, 5, cls=False, pool='map'),
        'SiglipVisionModel', 'SiglipVisionConfig',
        {'intermediate_size': 32},
    ),
    'clip': (
        VisionTransformer(FORM._replace(activation='quick_gelu', eps=1e-5), 5, 8, 5, before=True),
        'CLIPVisionModel', 'CLIPVisionConfig',
        {'intermediate_size': 32},
    ),
    'clip, projection': (
        VisionTransformer(FORM._replace(activation='quick_gelu', eps=1e-5), 5, 8, 5, before=True),
        'CLIPVisionModelWithProjection', 'CLIPVisionConfig',
        {'intermediate_size': 32, 'projection_dim': 4},
    ),
    'dinov3': (
        DinoV3(SCALED._replace(eps=1e-5, bias='q, v'), 5, 8, pool='token'),
        'DINOv3ViTModel', 'DINOv3ViTConfig',
        {'intermediate_size': 32, 'num_register_tokens': 4},
    ),
    'dinov3, gated': (
        DinoV3(SCALED._replace(eps=1e-5, bias='q, v', gate='split', activation='silu'), 5, 8, pool='token'),
        'DINOv3ViTModel', 'DINOv3ViTConfig',
        {'intermediate_size': 32, 'num_register_tokens': 4, 'use_gated_mlp': True, 'hidden_act': 'silu'},
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', TRANSFORMERS)
def test_files_of_transformers(case, tmp_path, record_property):
    """As `save_pretrained` writes them: the names in its files are not those in its memory."""
    with_torch.libraries()
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    backbone, kind, config, settings = TRANSFORMERS[case]
    model = getattr(transformers, kind)(getattr(transformers, config)(**NARROW, **settings))
    with_torch.randomise(model)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    image = image_of((40, 40))
    with torch.no_grad():
        said = model.double().eval()(pixel_values=in_torch(image), output_hidden_states=True)
    hidden = said.hidden_states[-1] if kind.endswith('Projection') else None
    classes = tensor_names.classes_in(backbone, state)
    assert classes == (CLASSES if case == 'vit' else 0)
    with jax.enable_x64(True):
        net = from_linen(backbone)
        heads = {'source': classes} if classes else {}
        wanted = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, heads), jnp.zeros(image.shape, jnp.float32))
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float64), wanted)
        variables = jax.tree.map(jnp.asarray, tensor_names.from_torch(backbone, state, wanted))
        out, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, jnp.asarray(image))
    if hidden is not None:
        pairs = [(out.maps['stage4'], hidden[:, 1:].reshape(2, 5, 5, 16))]
    elif classes:
        pairs = [(out.logits['source'], said.logits)]
    else:
        prefix = said.last_hidden_state.shape[1] - 25
        last = said.last_hidden_state[:, prefix:].reshape(2, 5, 5, 16)
        if case == 'clip':  # the tower's last LayerNorm is only that of the pooled token
            last = None
        pairs = [(out.features, said.pooler_output), *([(out.maps['last'], last)] if last is not None else [])]
    error = max(apart(a, b) for a, b in pairs)
    record_property('error', error)
    print(f'{case}: {len(state)} tensors, {error:.1e}')
    # DINOv3's angles are computed in float32 there.
    assert error < (1e-5 if 'dinov3' in case else 1e-9)
    back = tensor_names.to_torch(backbone, variables, 'transformers')
    again = tensor_names.from_torch(backbone, back, wanted)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(variables))


@pytest.mark.parametrize('name', ['vit_small_patch14_dinov2', 'vit_small_patch14_reg4_dinov2', 'vit_giant'])
def test_facebooks_names_are_what_timm_reads(name):
    """What we write in the names of Facebook's DINOv2, timm converts to the tensors that we write in timm's."""
    _, _, timm = with_torch.libraries()
    narrow = SCALED._replace(gate='packed', hidden=24, activation='silu') if name == 'vit_giant' else SCALED
    registers = {'registers': 4, 'placed': False} if 'reg4' in name else {}
    backbone = VisionTransformer(narrow, 5, 8, 5, **registers)
    net = from_linen(backbone)
    variables = filled(lambda: net.init(jax.random.key(0), jnp.zeros((1, 40, 40, 3)), {}))
    theirs = {k: torch.from_numpy(x) for k, x in tensor_names.to_torch(backbone, variables, 'dinov2').items()}
    want = tensor_names.to_torch(backbone, variables, 'timm')
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=40, patch_size=8, embed_dim=16, depth=5, num_heads=4, num_classes=0, init_values=1e-5,
        **({'reg_tokens': 4, 'no_embed_class': True} if registers else {}),
    )  # fmt: skip
    read = timm.models.vision_transformer.checkpoint_filter_fn(theirs, model)
    assert read.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_array_equal(read[key].numpy(), value)
