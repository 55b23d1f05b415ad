"""Supervised contrastive fine-tuning (Khosla et al. 2020, https://arxiv.org/abs/2004.11362; Gunel et al. 2021,
https://arxiv.org/abs/2011.01403).

Each image is seen in two augmentations, 2B images in one forward pass, with the labels y of both:

    L   = (1 - weight) mean_2B CE(z, y) + weight mean_2B l
    l_i = - mean_{p in P(i)} log( exp(f_i f_p / T) / sum_{a != i} exp(f_i f_a / T) )

P(i) are the other images of i's class: at least its own second view. f are the pooled features at length 1, as in Gunel
et al., whose weight 0.9 and temperature 0.3 for fine-tuning on few labels are the defaults (of texts, one view). With
`projection` = n > 0, f are n outputs of a network of two layers on the features, as in Khosla et al., who have n = 128
and a temperature of 0.1 (0.07 in their code), and train the classifier in a second stage. Evaluation leaves out the
projection.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree, View
from mixjax.methods._side_by_side import together
from mixjax.models.net import torch_linear


def make(classes_t: int, *, weight: float = 0.9, temperature: float = 0.3, projection: int = 0) -> Method:
    """Make supervised contrastive fine-tuning.

    Args:
      classes_t: number of target classes.
      weight: weight of the contrastive loss; 1 - weight is that of the cross-entropy.
      temperature: T, by which similarities are divided.
      projection: width of the projected features; 0 compares the pooled features themselves.
    """
    del classes_t
    require(0 <= weight < 1, f'weight must be at least 0 and below 1, not {weight}')
    require(temperature > 0, f'temperature must be above 0, not {temperature}')
    require(projection >= 0, f'projection must be at least 0, not {projection}')

    def parameters(net: Net, params: Tree, rng: Array) -> Tree:
        del net
        kernel = params['heads']['target']['kernel']
        d = len(kernel)
        widths = {'hidden': d, 'out': projection}
        keys = jax.random.split(rng, (2, 2))
        made = {
            name: {
                'kernel': torch_linear(own[0], d, (d, width), kernel.dtype),
                'bias': torch_linear(own[1], d, (width,), kernel.dtype),
            }
            for (name, width), own in zip(widths.items(), keys, strict=True)
        }
        return {**params, 'projection': made}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        images = together(ctx.batch['image'], ctx.batch['second'])
        label = jnp.repeat(ctx.batch['label'], 2)
        out, model_state = net.apply(ctx.variables(params), images, train=True)
        features = out.features.astype(out.logits['target'].dtype)
        if projection:
            layers = params['projection']
            hidden = jax.nn.relu(features @ layers['hidden']['kernel'] + layers['hidden']['bias'])
            features = hidden @ layers['out']['kernel'] + layers['out']['bias']
        ce = losses.cross_entropy(out.logits['target'], label).mean()
        contrastive = losses.supervised_contrastive(features, label, temperature).mean()
        total = (1 - weight) * ce + weight * contrastive
        return total, Aux(model_state, {'ce': ce, 'contrastive': contrastive})

    method = Method(loss, views={'second': View('image')}, whole_batch=weight > 0)
    return method._replace(parameters=parameters) if projection else method
