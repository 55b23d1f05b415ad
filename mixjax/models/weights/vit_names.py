"""The names of vision transformers in other libraries: timm, Facebook's DINOv2 and DINOv3, Hugging Face's transformers.

`read` of these dialects joins the matrices of query, key and value, folds the position of a class token into the token
where our network has none, and resizes positions that are for another square grid than the network's, as timm does
when it loads them. `write` undoes the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np

from mixjax.models import transformer
from mixjax.models.dinov3 import DinoV3
from mixjax.models.vit import VisionTransformer
from mixjax.models.weights.dialect import Dialect, Tensors, by_blocks

Rewrite = Callable[[Tensors], Tensors]
Step = tuple[Rewrite, Rewrite]  # one thing that `read` does, and its inverse

POOL = ('latent', 'q', 'kv', 'proj', 'norm', 'mlp/fc1', 'mlp/fc2')
TIMM = {
    'stem/conv': 'patch_embed.proj',
    'stem/cls_token': 'cls_token',
    'stem/reg_token': 'reg_token',
    'stem/pos_embed': 'pos_embed',
    'stem/norm': 'norm_pre',
    'final/norm': 'norm',
    **{f'final/pool/{layer}': f'attn_pool.{layer.replace("/", ".")}' for layer in POOL},
    'head': 'head',
}


def dotted(layer: str) -> str:
    """Return 'attn.qkv' for 'attn/qkv'."""
    return layer.replace('/', '.')


def dialect(top: Mapping[str, str], blocks: str, inside: Mapping[str, str], depth: int, *steps: Step) -> Dialect:
    """Make a dialect of a library that counts the blocks through all stages.

    Args:
      top: names outside of the blocks, as `by_blocks` takes them.
      blocks: what comes in front of a block's number, such as 'blocks.'.
      inside: names inside a block, {'attn/qkv': name}; those that are not in it are ours with dots.
      depth: number of blocks.
      steps: what `read` does, in this order.
    """
    first = list(accumulate(transformer.counts(depth), initial=0))

    def layer(stage: int, block: int, name: str) -> str:
        return f'{blocks}{first[stage - 1] + block}.{inside.get(name, dotted(name))}'

    def read(tensors: Tensors) -> Tensors:
        for forth, _ in steps:
            tensors = forth(tensors)
        return tensors

    def write(tensors: Tensors) -> Tensors:
        for _, back in reversed(steps):
            tensors = back(tensors)
        return tensors

    return by_blocks(top, layer, read, write)


# --- steps ------------------------------------------------------------------------------------------------------------


def unchanged(tensors: Tensors) -> Tensors:
    """Return the tensors as they are."""
    return tensors


def on_grid(name: str, before: int, side: int) -> Step:
    """Bring positions to the network's grid, where the file has them for another square one. There is no way back.

    Args:
      name: name of the positions, (1, before + side side, D).
      before: number of positions in front of the patches'.
      side: side of the network's grid.
    """

    def read(tensors: Tensors) -> Tensors:
        positions = np.asarray(tensors.get(name, ()))
        if positions.ndim != 3:
            return tensors
        theirs = math.isqrt(max(positions.shape[1] - before, 0))
        if theirs in (0, side) or theirs**2 + before != positions.shape[1]:
            return tensors
        wide = positions.astype(np.float64)
        matrix = transformer.resize_matrix(theirs, side)
        grid = np.einsum('ai,bj,ijd->abd', matrix, matrix, wide[0, before:].reshape(theirs, theirs, -1), optimize=True)
        return {**tensors, name: np.concatenate([wide[0, :before], grid.reshape(side**2, -1)])[None]}

    return read, unchanged


def dropped(names: Mapping[str, tuple[int, ...]]) -> Step:
    """Leave out tensors that no network here has, and write them as zeros, so that the library finds them.

    Args:
      names: {name: shape}; a shape () is not written.
    """

    def read(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name not in names}

    def write(tensors: Tensors) -> Tensors:
        return {**tensors, **{name: np.zeros(shape, np.float32) for name, shape in names.items() if shape}}

    return read, write


def joined(parts: tuple[str, ...], whole: str) -> Step:
    """Join the layers `parts` of a block, such as query, key and value, into one `whole`; a block needs all of them."""

    def read(tensors: Tensors) -> Tensors:
        out = dict(tensors)
        for name in tensors:
            path, _, leaf = name.rpartition('.')
            base = path.removesuffix(f'.{parts[0]}')
            names = [f'{base}.{part}.{leaf}' for part in parts]
            if base != path and all(part in out for part in names):
                out[f'{base}.{whole}.{leaf}'] = np.concatenate([np.asarray(out.pop(part)) for part in names])
        return out

    def write(tensors: Tensors) -> Tensors:
        out: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition('.')
            base = path.removesuffix(f'.{whole}')
            cut = zip(parts, np.split(tensor, len(parts)), strict=True) if base != path else ()
            out |= {f'{base}.{part}.{leaf}': piece for part, piece in cut} or {name: tensor}
        return out

    return read, write


def folded(token: str, positions: str) -> Step:
    """Add the class token's position to the token, and leave it away; written, it is zero."""

    def read(tensors: Tensors) -> Tensors:
        if token not in tensors or np.ndim(tensors.get(positions, ())) != 3:
            return tensors
        placed = np.asarray(tensors[positions]).astype(np.float64)
        if placed.shape[1] < 2 or math.isqrt(placed.shape[1] - 1) ** 2 != placed.shape[1] - 1:
            return tensors
        return {**tensors, token: np.asarray(tensors[token]) + placed[:, :1], positions: placed[:, 1:]}

    def write(tensors: Tensors) -> Tensors:
        placed = tensors[positions]
        return {**tensors, positions: np.concatenate([np.zeros_like(placed[:, :1]), placed], axis=1)}

    return read, write


def with_axes(axes: Mapping[str, int]) -> Step:
    """Put axes of length one in front of tensors, {name: number of axes}."""

    def read(tensors: Tensors) -> Tensors:
        more = {name: np.asarray(tensors[name]) for name in axes if name in tensors}
        return {**tensors, **{name: x.reshape((1,) * axes[name] + x.shape) for name, x in more.items()}}

    def write(tensors: Tensors) -> Tensors:
        fewer = {name: tensors[name] for name in axes if name in tensors}
        return {**tensors, **{name: x.reshape(x.shape[axes[name] :]) for name, x in fewer.items()}}

    return read, write


def prefixed(prefix: str, mark: str, outside: tuple[str, ...] = ()) -> Step:
    """Put a prefix in front of the names of a file that was saved without it.

    Args:
      prefix: 'vit.', for example.
      mark: a name by which such a file is known, without the prefix.
      outside: beginnings of names that never have the prefix.
    """

    def read(tensors: Tensors) -> Tensors:
        if mark not in tensors:
            return tensors
        return {name if name.startswith(outside) else f'{prefix}{name}': x for name, x in tensors.items()}

    return read, unchanged


def bare(*prefixes: str) -> Step:
    """Take prefixes away from names."""

    def read(tensors: Tensors) -> Tensors:
        def short(name: str) -> str:
            return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)

        return {short(name): tensor for name, tensor in tensors.items()}

    return read, unchanged


def without_projection(tensors: Tensors) -> Tensors:
    """Return the tensors without the projection into CLIP's space of texts and images, which is no classifier.

    timm keeps it as `head`. It has no bias, so timm's is exactly zero, which that of a trained classifier never is.
    """
    bias = np.asarray(tensors.get('head.bias', 1))
    if bias.ndim != 1 or np.any(bias):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name not in ('head.weight', 'head.bias')}


def without_texts(tensors: Tensors) -> Tensors:
    """Return the tensors without those of the text tower and of the comparison with it, by transformers' names."""
    others = ('logit_scale', 'logit_bias', 'visual_projection.weight', 'text_projection.weight')
    position = 'vision_model.embeddings.position_ids'  # of old files: 0, 1, 2 ..
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name not in (*others, position) and not name.startswith('text_model.')
    }


def query_apart(tensors: Tensors) -> Tensors:
    """Cut the matrix of torch's MultiheadAttention in SigLIP's pooling into that of the query and the rest."""
    out = dict(tensors)
    for leaf in ('weight', 'bias'):
        tensor = out.pop(f'{ATTENTION}.in_proj_{leaf}', None)
        if tensor is not None:
            third = len(tensor) // 3
            out |= {f'{ATTENTION}.q.{leaf}': tensor[:third], f'{ATTENTION}.kv.{leaf}': tensor[third:]}
    return out


def query_inside(tensors: Tensors) -> Tensors:
    """Undo `query_apart`."""
    out = dict(tensors)
    for leaf in ('weight', 'bias'):
        if f'{ATTENTION}.q.{leaf}' in out:
            both = [out.pop(f'{ATTENTION}.{part}.{leaf}') for part in ('q', 'kv')]
            out[f'{ATTENTION}.in_proj_{leaf}'] = np.concatenate(both)
    return out


# --- networks with learned positions ----------------------------------------------------------------------------------

ATTENTION = 'vision_model.head.attention'
VIT_BLOCK = {
    'norm1': 'layernorm_before',
    'attn/qkv': 'attention.attention.qkv',
    'attn/proj': 'attention.output.dense',
    'norm2': 'layernorm_after',
    'mlp/fc1': 'intermediate.dense',
    'mlp/fc2': 'output.dense',
}
DINOV2_BLOCK = {
    'attn/qkv': 'attention.attention.qkv',
    'attn/proj': 'attention.output.dense',
    'ls1/gamma': 'layer_scale1.lambda1',
    'ls2/gamma': 'layer_scale2.lambda1',
}
TOWER_BLOCK = {
    'norm1': 'layer_norm1',
    'attn/qkv': 'self_attn.qkv',
    'attn/proj': 'self_attn.out_proj',
    'norm2': 'layer_norm2',
}
TOWER = {
    'stem/conv': 'vision_model.embeddings.patch_embedding',
    'stem/cls_token': 'vision_model.embeddings.class_embedding',
    'stem/pos_embed': 'vision_model.embeddings.position_embedding.weight',
    'stem/norm': 'vision_model.pre_layrnorm',
    'final/norm': 'vision_model.post_layernorm',
    'final/pool/latent': 'vision_model.head.probe',
    'final/pool/q': f'{ATTENTION}.q',
    'final/pool/kv': f'{ATTENTION}.kv',
    'final/pool/proj': f'{ATTENTION}.out_proj',
    'final/pool/norm': 'vision_model.head.layernorm',
    'final/pool/mlp/fc1': 'vision_model.head.mlp.fc1',
    'final/pool/mlp/fc2': 'vision_model.head.mlp.fc2',
    'head': 'classifier',
}
QKV = ('query', 'key', 'value')
PROJECTIONS = ('q_proj', 'k_proj', 'v_proj')


def _timm(backbone: VisionTransformer) -> Dialect:
    steps = [on_grid('pos_embed', (backbone.cls + backbone.registers) * backbone.placed, backbone.grid)]
    if backbone.before:
        steps.insert(0, (without_projection, unchanged))
    return dialect(TIMM, 'blocks.', {}, backbone.depth, *steps)


def _dinov2(backbone: VisionTransformer) -> Dialect:
    """Return the names of Facebook's DINOv2, whose files have a position for the class token in both forms."""
    top = {**TIMM, 'stem/reg_token': 'register_tokens'}
    inside = {'mlp/fc1': 'mlp.w12', 'mlp/fc2': 'mlp.w3'} if backbone.form.gate else {}
    fold = [] if backbone.placed else [folded('cls_token', 'pos_embed')]
    steps = [dropped({'mask_token': (1, backbone.form.width)}), *fold]
    return dialect(
        top, 'blocks.', inside, backbone.depth, *steps, on_grid('pos_embed', int(backbone.placed), backbone.grid)
    )


def _vit(backbone: VisionTransformer) -> Dialect:
    """Return the names of `ViTForImageClassification`; the pooler of `ViTModel` is left out, it is not in timm's."""
    here = 'vit.embeddings.'
    top = {
        'stem/conv': f'{here}patch_embeddings.projection',
        'stem/cls_token': f'{here}cls_token',
        'stem/pos_embed': f'{here}position_embeddings',
        'final/norm': 'vit.layernorm',
        'head': 'classifier',
    }
    return dialect(
        top, 'vit.encoder.layer.', VIT_BLOCK, backbone.depth,
        prefixed('vit.', 'embeddings.cls_token', ('classifier.',)),
        dropped({'vit.pooler.dense.weight': (), 'vit.pooler.dense.bias': ()}),
        joined(QKV, 'qkv'),
        on_grid(f'{here}position_embeddings', 1, backbone.grid),
    )  # fmt: skip


def _transformers_dinov2(backbone: VisionTransformer) -> Dialect:
    """Return the names of `Dinov2Model` and `Dinov2WithRegistersModel`."""
    here = 'embeddings.'
    top = {
        'stem/conv': f'{here}patch_embeddings.projection',
        'stem/cls_token': f'{here}cls_token',
        'stem/reg_token': f'{here}register_tokens',
        'stem/pos_embed': f'{here}position_embeddings',
        'final/norm': 'layernorm',
        'head': 'classifier',
    }
    gated = {'mlp/fc1': 'mlp.weights_in', 'mlp/fc2': 'mlp.weights_out'} if backbone.form.gate else {}
    fold = [] if backbone.placed else [folded(top['stem/cls_token'], top['stem/pos_embed'])]
    return dialect(
        top, 'encoder.layer.', {**DINOV2_BLOCK, **gated}, backbone.depth,
        bare('dinov2.', 'dinov2_with_registers.'),
        dropped({f'{here}mask_token': (1, backbone.form.width)}),
        joined(QKV, 'qkv'), *fold,
        on_grid(top['stem/pos_embed'], int(backbone.placed), backbone.grid),
    )  # fmt: skip


def _tower(backbone: VisionTransformer) -> Dialect:
    """Return the names of the image tower in `SiglipModel` and `CLIPModel`, or of the tower alone."""
    positions = TOWER['stem/pos_embed']
    return dialect(
        TOWER, 'vision_model.encoder.layers.', TOWER_BLOCK, backbone.depth,
        prefixed('vision_model.', 'embeddings.patch_embedding.weight', ('classifier.',)),
        (without_texts, unchanged),
        joined(PROJECTIONS, 'qkv'),
        (query_apart, query_inside),
        with_axes({positions: 1, TOWER['stem/cls_token']: 2}),
        on_grid(positions, int(backbone.cls), backbone.grid),
    )  # fmt: skip


def of_vit(backbone: VisionTransformer) -> dict[str, Dialect]:
    """Return {name: dialect} of a vision transformer with learned positions."""
    out = {'timm': _timm(backbone)}
    if backbone.form.scale:
        dinov2 = backbone.placed or backbone.registers  # and not DeiT-III
        return {**out, 'dinov2': _dinov2(backbone), 'transformers': _transformers_dinov2(backbone)} if dinov2 else out
    tower = backbone.before or not backbone.cls
    return {**out, 'transformers': _tower(backbone) if tower else _vit(backbone)}


# --- DINOv3 -----------------------------------------------------------------------------------------------------------


def _meta(backbone: DinoV3) -> Dialect:
    """Return the names of Facebook's DINOv3."""
    inside = {'attn/q_bias': 'attn.q.bias', 'attn/v_bias': 'attn.v.bias'}
    if backbone.form.gate:
        inside |= {'mlp/fc1_g': 'mlp.w1', 'mlp/fc1_x': 'mlp.w2', 'mlp/fc2': 'mlp.w3'}

    def read(tensors: Tensors) -> Tensors:
        out: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            base = name.removesuffix('.qkv.bias')
            if name.endswith('.qkv.bias_mask') or name == 'rope_embed.periods':  # 0 for the key, 1 else; as in ours
                continue
            if base == name:
                out[name] = tensor
            elif backbone.form.bias:
                q, _, v = np.split(np.asarray(tensor), 3)
                out |= {f'{base}.q.bias': q, f'{base}.v.bias': v}
            elif np.any(np.split(np.asarray(tensor), 3)[::2]):
                out[name] = tensor  # it has no place in a network without biases
        return out

    def write(tensors: Tensors) -> Tensors:
        out: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            base = name.removesuffix('.q.bias')
            if base != name:
                out[f'{base}.qkv.bias'] = np.concatenate([tensor, np.zeros_like(tensor), tensors[f'{base}.v.bias']])
            elif not name.endswith('.attn.v.bias'):
                out[name] = tensor
        return out

    return dialect(
        {**TIMM, 'stem/reg_token': 'storage_tokens'}, 'blocks.', inside, backbone.depth,
        dropped({'mask_token': (1, backbone.form.width)}), (read, write),
    )  # fmt: skip


def _transformers_dinov3(backbone: DinoV3) -> Dialect:
    """Return the names of `DINOv3ViTModel`, whose published files have biases of query and value."""
    top = {
        'stem/conv': 'embeddings.patch_embeddings',
        'stem/cls_token': 'embeddings.cls_token',
        'stem/reg_token': 'embeddings.register_tokens',
        'final/norm': 'norm',
        'head': 'classifier',
    }
    inside = {
        'attn/qkv': 'attention.qkv',
        'attn/q_bias': 'attention.q_proj.bias',
        'attn/v_bias': 'attention.v_proj.bias',
        'attn/proj': 'attention.o_proj',
        'ls1/gamma': 'layer_scale1.lambda1',
        'ls2/gamma': 'layer_scale2.lambda1',
        'mlp/fc1': 'mlp.up_proj',
        'mlp/fc1_g': 'mlp.gate_proj',
        'mlp/fc1_x': 'mlp.up_proj',
        'mlp/fc2': 'mlp.down_proj',
    }
    return dialect(
        top, 'layer.', inside, backbone.depth,
        dropped({'embeddings.mask_token': (1, 1, backbone.form.width)}), joined(PROJECTIONS, 'qkv'),
    )  # fmt: skip


def of_dinov3(backbone: DinoV3) -> dict[str, Dialect]:
    """Return {name: dialect} of a DINOv3 network."""
    gammas = {'ls1/gamma': 'gamma_1', 'ls2/gamma': 'gamma_2'}
    return {
        'timm': dialect(TIMM, 'blocks.', gammas, backbone.depth),
        'dinov3': _meta(backbone),
        'transformers': _transformers_dinov3(backbone),
    }
