"""Wrappers: functions from a `Method` to a `Method`, as optax wraps optimisers.

Each module has `wrap(method, classes_t, *, <hyper-parameters with defaults>) -> Method`. The shipped ones mix images
and labels in front of the loss of another method, by `mixing`. A wrapper may change anything else of a method as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


class Mixed(NamedTuple):
    """A mixed batch.

    net: the network that the wrapped loss calls.
    image: (B, H, W, C).
    share: () or (B,), the share of an image's label; the rest is its partner's.
    check: called after the loss.
    """

    net: Net
    image: Array
    share: Array
    check: Callable[[], None] = lambda: None


def mixing(
    name: str, method: Method, classes_t: int, mixed: Callable[[Net, Tree, Ctx], Mixed], tasks: tuple[str, ...] = TASKS
) -> Method:
    """Return the method with mixed images and labels: in its loss, `label` is (B, classes_t) soft targets.

        t = share y_i + (1 - share) y_j,   j the partner of i

    Args:
      name: the wrapper's name; the mean share is logged as `<name>_lam`.
      method: the method to wrap.
      classes_t: number of target classes.
      mixed: (net, params, ctx) -> Mixed. Labels may be mixed already, where the method is wrapped twice.
      tasks: names of the tasks for which the mixed labels are right; the method must be for them too.
    """
    require(
        method.soft_labels,
        'it mixes labels, and the loss of this method takes the class of each image as a number: it mixes images '
        'itself, trains on source images beside them, or stores labels (a method of your own whose loss takes soft '
        'targets, as losses.cross_entropy does, says Method(.., soft_labels=True))',
    )

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        made = mixed(net, params, ctx)
        y = losses.one_hot(ctx.batch['label'], classes_t)
        target = mix.blend(made.share, y, mix.partner(y, ctx.batch['partner']))
        batch = {**ctx.batch, 'image': made.image, 'label': target}
        # The wrapper draws from the key of the step, as the mixing methods do, and the wrapped loss from another one.
        inner = ctx._replace(batch=batch, rng=jax.random.fold_in(ctx.rng, 1))
        value, aux = method.loss(made.net, params, inner)
        made.check()
        return value, aux._replace(metrics={**aux.metrics, f'{name}_lam': made.share.mean()})

    return method._replace(loss=loss, tasks=tuple(task for task in method.tasks if task in tasks))
