"""DELTA's channel attention: the importance of a network's channels for a new task (https://arxiv.org/abs/1901.09229).

A new head is trained on the frozen pretrained trunk; the score of a channel is the increase of the loss when that
channel is set to zero. Host-side loops over compiled functions of `net.apply`; the scores become weights in
`losses.attention`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixjax import losses
from mixjax.errors import require
from mixjax.maths import jaxpr_split

Array = jax.Array
Tree = Any
Batch = Mapping[str, Array]
Loss = Callable[[Array, Array], Array]
Net = Any  # a `mixjax.models.net.Net`; `init`, `apply` and `pretrained` of it are used


def conv_layers(names: Iterable[str]) -> list[str]:
    """Select `stage1.conv`, `stage2.conv`, .. from the names of a network's maps, in order."""
    found = sorted((n for n in names if re.fullmatch(r'stage\d+\.conv', n)), key=lambda n: int(n[5:-5]))
    require(bool(found), 'the network must be one that shows the last convolution of each stage, for channel attention')
    return found


def train_head(
    net: Net, batches: Iterator[Batch], classes: int, rng: Array, *, epochs: int, steps: int, drift: bool,
    loss: Loss = losses.cross_entropy,
) -> Tree:  # fmt: skip
    """Train a new head `target` on the pretrained network, and return all variables.

    SGD as in the released code: learning rate 0.01, momentum 0.9, weight decay 1e-4 (towards zero, the
    bias too). The learning rate is multiplied by 0.1^(1/6) before each epoch, also before the first.

    Args:
      net: the network.
      batches: endless; image (b, H, W, C), label (b,).
      classes: number of target classes.
      rng: draws the initial head.
      epochs: number of epochs.
      steps: number of batches in each epoch.
      loss: (logits, label) -> (b,).
      drift: run the trunk in train mode: its BatchNorm statistics then follow the new data.
    """
    start = net.pretrained()
    trunk = start['params']['backbone']
    state = {name: tree for name, tree in start.items() if name != 'params'}
    tx = optax.chain(
        optax.add_decayed_weights(1e-4),
        optax.sgd(lambda count: 0.01 * 0.1 ** ((1 + jnp.asarray(count) // steps) / 6), momentum=0.9),
    )

    @jax.jit
    def init(trunk: Tree, rng: Array, image: Array) -> tuple[Tree, Any]:
        dtype = jnp.result_type(*jax.tree.leaves(trunk))
        head = net.init(rng, image, {'target': classes})['params']['heads']['target']
        head = jax.tree.map(lambda x: x.astype(dtype), head)
        return head, tx.init(head)

    @jax.jit
    def step(trunk: Tree, head: Tree, opt: Any, state: Tree, image: Array, label: Array) -> tuple[Tree, Any, Tree]:
        def mean(head: Tree) -> tuple[Array, Tree]:
            out, moved = net.apply(_variables(trunk, head, state), image, train=drift)
            return loss(out.logits['target'], label).mean(), moved

        grads, moved = jax.grad(mean, has_aux=True)(head)
        updates, opt = tx.update(grads, opt, head)
        return optax.apply_updates(head, updates), opt, moved

    head, opt = None, None
    for batch in islice(batches, epochs * steps):
        if head is None:
            head, opt = init(trunk, rng, batch['image'])
        head, opt, state = step(trunk, head, opt, state, batch['image'], batch['label'])
    return _variables(trunk, head, state)


def _variables(trunk: Tree, head: Tree, state: Tree) -> Tree:
    return {'params': {'backbone': trunk, 'heads': {'target': head}}, **state}


def channel_scores(
    net: Net, variables: Tree, batches: Iterable[Batch], layer: str, *, head: str = 'target', chunk: int = 16,
    loss: Loss = losses.cross_entropy,
) -> np.ndarray:  # fmt: skip
    """Return score_j = mean over the batches of [loss with channel j of `layer` set to zero - loss], in eval mode.

    Setting a convolution's output channel to zero is the same as setting its filter to zero, where it has no bias. The
    computation before the layer does not depend on the channel: it is done once for a batch, and the computation
    after it for `chunk` channels at a time.

    Args:
      net: the network.
      variables: its variables.
      batches: image (b, H, W, C), label (b,); all of one size, so that there is one program.
      layer: name of the tap; `net.apply` also returns it in `maps`.
      head: name of the head.
      chunk: number of channels of one forward pass.
      loss: (logits, label) -> (b,).

    Returns:
      (C,)
    """
    seen = [(variables, batch['image'], batch['label']) for batch in batches]
    width = jax.eval_shape(partial(net.apply, train=False), *seen[0][:2])[0].maps[layer].shape[-1]
    count = -(-width // chunk)  # the last chunk is padded with masks that hide nothing
    masks = np.arange(count * chunk)[:, None] != np.arange(width)
    first, rest = map(jax.jit, jaxpr_split.split(rises(net, layer, head, loss), seen[0], masks[:chunk]))
    total = 0.0
    for given in seen:
        once = first(given)
        parts = [rest(once, part) for part in np.split(masks, count)]
        total = total + np.concatenate(parts)[:width]
    return np.asarray(total / len(seen))


def rises(
    net: Net, layer: str, head: str, loss: Loss = losses.cross_entropy
) -> Callable[[tuple[Tree, Array, Array], Array], Array]:
    """Return the function from ((variables, image, label), masks (m, C)) to the increase of the mean loss, (m,).

    Masks are the batch axis of a `vmap`.

    Args:
      net: the network.
      layer: name of the tap; a mask is true for the channels of its output that are kept.
      head: name of the head.
      loss: (logits, label) -> (b,).
    """

    def each(given: tuple[Tree, Array, Array], masks: Array) -> Array:
        variables, image, label = given

        def ce(mask: Array | None) -> Array:
            def tap(name: str, hidden: Array) -> Array:
                return hidden if mask is None or name != layer else jnp.where(mask, hidden, 0)

            out, _ = net.apply(variables, image, train=False, tap=tap)
            return loss(out.logits[head], label)

        # Subtract for each example first: the scores are far smaller than the loss.
        plain = ce(None)
        return jax.vmap(lambda mask: jnp.mean(ce(mask) - plain))(masks)

    return each
