"""Wrappers: functions from a `Method` to a `Method`, as optax wraps optimisers.

Each module has `wrap(method, classes_t, *, <hyper-parameters with defaults>) -> Method`. Some of the shipped ones mix
images and labels in front of the loss of another method, by `mixing`. The others change which parameters learn, how, or
which are evaluated. Each is a method by its own name as well, around plain fine-tuning, unless a method has that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Groups, Method, Net, Tree
from mixjax.models.layers import fixed_statistics
from mixjax.models.net import group


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


def factor(groups: Groups, path: tuple[str, ...], params: Tree) -> tuple[float, float]:
    """Return the (learning rate factor, decay factor) that a method's `groups` give to a parameter of the network."""
    if callable(groups):
        return groups(path, params)
    part = group(path) if path[0] in ('backbone', 'heads') else path[0]
    kind = 'heads' if part.startswith('head:') else 'trunk'
    return groups.get(part, groups.get(kind, (1.0, 1.0)))


def only(method: Method, learns: Callable[[tuple[str, ...], Tree], bool], bn: str) -> Method:
    """Return the method with a trunk of which only some parameters learn; heads and what the method adds do as before.

    Args:
      method: the method.
      learns: (path of a parameter of the trunk, all parameters) -> whether it learns.
      bn: 'train' leaves BatchNorm as the method has it, 'frozen' keeps the running statistics and normalises by them.
    """
    require(bn in ('train', 'frozen'), f"bn must be 'train' or 'frozen', not {bn!r}")

    def groups(path: tuple[str, ...], params: Tree) -> tuple[float, float]:
        frozen = path[0] == 'backbone' and not learns(path, params)
        return (0.0, 0.0) if frozen else factor(method.groups, path, params)

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        return method.loss(net if bn == 'train' else fixed_statistics(net), params, ctx)

    return method._replace(loss=loss, groups=groups)


def is_norm(path: tuple[str, ...], params: Tree) -> bool:
    """Return whether a parameter is the scale or bias of a normalisation layer."""
    layer = params
    for key in path[:-1]:
        layer = layer[key]
    return path[-1] in ('scale', 'bias') and 'scale' in layer and 'kernel' not in layer
