"""LoRA: low-rank changes of frozen weights (Hu et al. 2022, https://arxiv.org/abs/2106.09685).

    W' = W + alpha / rank A B,   A (n, rank),   B (rank, m),   B = 0 at step 0

for every kernel of the chosen `parts` that is a matrix (n, m) or a convolution of 1x1 or 3x3 (h, w, c, m), which is the
matrix of n = h w c rows: A is then a convolution to `rank` channels and B one of 1x1 behind it, as in Hugging Face's
PEFT. (The released LoRA code reshapes a square product instead, of rank h times as high.) A is drawn as there,
from U(-1/sqrt(n), 1/sqrt(n)). Kernels of `rank` rows or columns or fewer stay as they are, and so do convolutions of
one channel, among them depthwise ones.

A and B are trained as the sub-tree `lora`, W and all else of the trunk is frozen, heads learn as before. `norms` trains
the scales and biases of normalisation layers too; BatchNorm's running statistics follow the target either way. The
wrapped method sees W' in the place of W, and so do evaluation, export and prediction: what is exported is a
plain network. rank and alpha are 8, as the paper has them for RoBERTa base, which is PEFT's default too.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from mixjax.errors import nearest, require
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree
from mixjax.models.layers import torch_conv
from mixjax.wrappers import factor, is_norm

Path = tuple[str, ...]


def wrap(
    method: Method, classes_t: int, *, rank: int = 8, alpha: float = 8.0, parts: tuple[str, ...] = ('trunk',),
    norms: bool = False,
) -> Method:  # fmt: skip
    """Wrap a method in LoRA.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      rank: the rank of the changes.
      alpha: their scale, times `rank`.
      parts: the parts of the network that change, `stem`, `stage1` .., or `trunk` for all.
      norms: whether scales and biases of normalisation layers learn too.
    """
    del classes_t
    require(rank >= 1, f'rank must be at least 1, not {rank}')
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    scale = alpha / rank

    def adapted(path: Path, kernel: Array) -> bool:
        shape = kernel.shape
        known = len(shape) == 2 or len(shape) == 4 and shape[:2] in ((1, 1), (3, 3)) and shape[2] > 1
        large = min(math.prod(shape[:-1]), shape[-1]) > rank
        return path[-1] == 'kernel' and known and large and bool({path[0], 'trunk'} & set(parts))

    def parameters(net: Net, params: Tree, rng: Array) -> Tree:
        rng, other = jax.random.split(rng)
        params = method.parameters(net, params, other)
        for part in parts:
            known = ['trunk', *params['backbone']]
            require(part in known, f'parts has {part!r}{nearest(part, known)}; this network has {", ".join(known)}')
        kernels = {path: x for path, x in flat(params['backbone']).items() if adapted(path, x)}
        require(bool(kernels), f'no kernel of {", ".join(parts)} has more than {rank} rows and columns; lower the rank')
        made = {}
        for i, (path, kernel) in enumerate(sorted(kernels.items())):
            n, m = math.prod(kernel.shape[:-1]), kernel.shape[-1]
            made[*path, 'a'] = torch_conv(jax.random.fold_in(rng, i), (n, rank), kernel.dtype)
            made[*path, 'b'] = jnp.zeros((rank, m), kernel.dtype)
        return {**params, 'lora': traverse_util.unflatten_dict(made)}

    def merged(params: Tree) -> Tree:
        """Return the parameters that the wrapped method sees: W' in the place of W, without A and B."""
        low, kernels = flat(params['lora']), flat(params['backbone'])
        for path in {path[:-1] for path in low}:
            change = scale * (low[*path, 'a'] @ low[*path, 'b'])
            kernels[path] = kernels[path] + change.reshape(kernels[path].shape)
        rest = {name: tree for name, tree in params.items() if name != 'lora'}
        return {**rest, 'backbone': traverse_util.unflatten_dict(kernels)}

    def groups(path: Path, params: Tree) -> tuple[float, float]:
        if path[0] == 'lora':  # A and B as the method has the kernel that they change
            return factor(method.groups, ('backbone', *path[1:-1]), params)
        frozen = path[0] == 'backbone' and not (norms and is_norm(path, params))
        return (0.0, 0.0) if frozen else factor(method.groups, path, params)

    def inner(ctx: Ctx, params: Tree) -> Ctx:
        """Return the context in which a kernel learns as its A and B do."""

        def factors(seen: Tree) -> Tree:
            every = flat(ctx.run.factors({**seen, 'lora': params['lora']}))
            low = {('backbone', *path[1:-1]): pair for path, pair in every.items() if path[0] == 'lora'}
            return traverse_util.unflatten_dict({p: x for p, x in (every | low).items() if p[0] != 'lora'})

        return ctx._replace(run=ctx.run._replace(factors=factors))

    def init(net: Net, params: Tree, prepared: Prepared, data: Data) -> Tree:
        return method.init(net, merged(params), prepared, data)

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        return method.loss(net, merged(params), inner(ctx, params))

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        seen = merged(new)
        moved, state = method.after_step(net, merged(old), seen, aux, inner(ctx, new))
        before, after = jax.tree.leaves(seen['backbone']), jax.tree.leaves(moved['backbone'])
        require(
            len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True)),
            'lora: the method changes the weights of the trunk after a step (its after_step), which low-rank changes '
            'cannot follow; wrap another method, or one whose loss keeps the weights near the pretrained ones',
        )
        return {**new, **moved, 'backbone': new['backbone']}, state

    def evaluated(net: Net, variables: Tree, state: Tree) -> Tree:
        return method.evaluated(net, {**variables, 'params': merged(variables['params'])}, state)

    return method._replace(
        loss=loss, after_step=after_step, init=init, parameters=parameters, evaluated=evaluated, groups=groups
    )


def flat(tree: Tree) -> dict[Path, Array]:
    """Return {path: leaf} of a nested dict."""
    flattened: Any = traverse_util.flatten_dict(tree)
    return flattened
