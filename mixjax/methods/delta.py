"""DELTA: keep the pretrained feature maps, most of all those that matter (Li et al. 2019,
https://arxiv.org/abs/1901.09229).

    L = mean_B CE(z, y) + alpha sum_layers (C / 2) sum_b sum_ch a_ch ||F_ch - F0_ch||^2 / (h w) + beta / 2 ||head||^2

F and F0 are the maps of the network and of the pretrained one, in eval mode, of the same image, at the
last convolution of every stage, before normalisation. The distance is summed over the batch, so alpha
belongs to a batch size. `prepare` makes the weights a: a head is trained for `head_epochs` on the
frozen trunk, and on `batches` batches of 32 each channel's score is the rise of the loss without it;
a = softmax(standardised scores / 5).

`form='delta'` is the authors' code; the optimiser decays nothing. `attention='none'` leaves a out:
1/2 ||F - F0||^2. `form='smile'` is the SMILE repository's: the last map only, without C / 2 and the head's
term (so `beta` is unused), and the optimiser's decay is kept. An alpha is C / 2 times weaker there.
The released code lets the trunk's BatchNorm statistics drift while the head is trained (`head_drift=True`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.errors import require
from mixjax.maths import channel_attention as attention_lib
from mixjax.method import TASKS, Array, Aux, Ctx, Data, Method, Net, Prepared, Tree


def make(
    classes_t: int,
    *,
    form: str = 'delta',
    attention: str = 'channels',
    alpha: float = 0.01,
    beta: float = 0.01,
    head_epochs: int = 10,
    head_drift: bool = False,
    batches: int = 4,
) -> Method:
    """Make DELTA.

    Args:
      classes_t: number of target classes.
      form: 'delta' as in the authors' code, or 'smile' as in the SMILE repository.
      attention: 'channels' weighs channels by their scores, 'none' does not.
      alpha: weight of the distance of the maps.
      beta: weight of the head's squared norm.
      head_epochs: epochs of training the head before the channels are scored.
      head_drift: whether BatchNorm's statistics move meanwhile.
      batches: number of batches of 32 for the scores.
    """
    require(form in ('delta', 'smile'), f"form must be 'delta' or 'smile', not {form!r}")
    require(attention in ('channels', 'none'), f"attention must be 'channels' or 'none', not {attention!r}")
    require(form == 'delta' or attention == 'channels', "attention must be 'channels' where form is 'smile'")
    require(min(alpha, beta) >= 0, 'alpha and beta must be at least 0')
    require(min(head_epochs, batches) >= 1, 'head_epochs and batches must be at least 1')

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        if attention == 'none':
            return Prepared()
        n = len(data.target.labels)
        size = min(32, n)
        stream = data.target.batches(size, augmented=True)
        variables = attention_lib.train_head(
            net, stream, classes_t, rng, epochs=head_epochs, steps=-(-n // size), drift=head_drift, loss=data.loss
        )
        seen = [next(stream) for _ in range(batches)]
        maps = jax.eval_shape(net.source, seen[0]['image']).maps
        layers = attention_lib.conv_layers(maps)
        require(
            form == 'delta' or maps['last'].shape[-1] == maps[layers[-1]].shape[-1],
            "form must be 'delta' for this network: its last map and its last convolution have different channels",
        )
        weights = {}
        for layer in layers[-1:] if form == 'smile' else layers:
            score = attention_lib.channel_scores(net, variables, seen, layer, loss=data.loss)
            weights[layer] = np.asarray(losses.attention(jnp.asarray(score)))
        return Prepared({'attention': weights})

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        start = net.source(ctx.batch['image'])
        ce = ctx.loss(out.logits['target'], ctx.batch['label']).mean()
        distance = between(out.maps, start.maps, ctx.frozen).sum()
        total = ce + alpha * distance
        if form == 'delta':
            total = total + beta * 0.5 * losses.squared_norm(params['heads'])
        return total, Aux(model_state, {'ce': ce, 'distance': distance})

    def between(maps: dict[str, Array], start: dict[str, Array], frozen: Tree) -> Array:
        """Return the distance of each example, (B,)."""
        layers = attention_lib.conv_layers(maps)
        if attention == 'none':
            return jnp.stack([losses.map_distance(maps[n], start[n]) for n in layers]).sum(axis=0)
        weight = frozen['attention']
        if form == 'smile':
            return losses.attention_distance(maps['last'], start['last'], weight[layers[-1]])
        each = [0.5 * maps[n].shape[-1] * losses.attention_distance(maps[n], start[n], weight[n]) for n in layers]
        return jnp.stack(each).sum(axis=0)

    groups = {'trunk': (1.0, 0.0), 'heads': (1.0, 0.0)} if form == 'delta' else {}
    # The distance is a sum over the examples of a batch, not a mean.
    return Method(loss, prepare=prepare, groups=groups, whole_batch=alpha > 0, soft_labels=True, tasks=TASKS)
