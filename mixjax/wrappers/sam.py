"""SAM: sharpness-aware minimisation (Foret et al. 2021, https://arxiv.org/abs/2010.01412).

    L'(w) = L(w + rho g / ||g||),   g = the gradient of L at w,   and g / ||g|| is constant for the gradient of L'

L is the method's loss, and rho the paper's 0.05. The norm is over all parameters that learn; what the method, its phase
or the config freezes stays at w. Each step has two passes, both of the whole batch with the same random numbers, except
dropout, whose masks differ. The second one gives the gradient only: the running statistics, the logged loss and metrics
and what the method remembers are the first one's, at w, as in the common implementations. `sam_rise`
is L'(w) - L(w).

`adaptive` is ASAM (Kwon et al. 2021, https://arxiv.org/abs/2102.11600), which scales with the weights: with
t = |w| + 0.01, w + rho t^2 g / ||t g||. The paper has rho 0.5 for it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def wrap(method: Method, classes_t: int, *, rho: float = 0.05, adaptive: bool = False) -> Method:
    """Wrap a method in SAM.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      rho: the distance between the two points.
      adaptive: whether it is ASAM.
    """
    del classes_t
    require(rho >= 0, f'rho must be at least 0, not {rho}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        here = jax.lax.stop_gradient(params)
        (value, aux), grads = jax.value_and_grad(method.loss, argnums=1, has_aux=True)(net, here, ctx)
        size = jax.tree.map(lambda w: abs(w) + 0.01 if adaptive else jnp.ones_like(w), here)

        def learns(g: Array, factor: tuple[float, float]) -> Array:
            return g if factor[0] else jnp.zeros_like(g)

        scaled = jax.tree.map(jnp.multiply, size, jax.tree.map(learns, grads, ctx.run.factors(here)))
        length = rho / (jnp.sqrt(losses.squared_norm(scaled)) + 1e-12)
        there = jax.tree.map(lambda w, t, g: w + (length * t * g).astype(w.dtype), params, size, scaled)
        risen, _ = method.loss(net, there, ctx)
        aux = aux._replace(metrics={**aux.metrics, 'sam_rise': risen - value})
        return risen + jax.lax.stop_gradient(value - risen), aux

    return method._replace(loss=loss, whole_batch=True)
