"""The network that training starts from: its weights, and the use of their classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from mixjax.errors import UserError
from mixjax.host import array_cache
from mixjax.models import weights
from mixjax.models.net import Net

Array = jax.Array
Tree = Any


class Start(NamedTuple):
    """The network that training starts from.

    variables: its classifier is the head `source`; with `keep` it is the head `target` too. None
        from scratch.
    note: a message on how the file was used.
    digest: digest of the file's tensors; '' without a file.
    licence: of the weights; '' where it is not known.
    """

    variables: Tree | None
    note: str = ''
    digest: str = ''
    licence: str = ''


def pretrained(
    spec: str, net: Net, name: str, image: Array, classes_s: tuple[str, ...] = (), *,
    head: str = 'source', classes_t: tuple[str, ...] = (),
) -> Start:  # fmt: skip
    """Read the weights of a config into the network.

    Args:
      spec: `config.model.weights`.
      net: the network.
      name: the network's name.
      image: zeros of the training images' shape.
      classes_s, classes_t: class names of the source data set, if the config names one, and of the target.
        The weights' classes must be the source's, in their order.
      head: the use of the weights' classifier: `source` makes it the head `source`; `keep` also begins
        the target's with it; `reset` leaves it out.
    """
    if not spec:
        return Start(None)
    found, loaded = weights.into(spec, net, name, image)
    variables = weights.with_classifier(found, 'source')
    if spec.startswith(weights.RANDOM):
        return Start(apply_head_setting(spec, variables, head, len(classes_t)))
    known = tuple(loaded.about['classes']) if loaded.own else ()
    heads = variables['params']['heads']
    width = len(heads['source']['bias']) if 'source' in heads else 0
    if classes_s and (known != classes_s if known else width != len(classes_s)):
        raise UserError(
            f'weights {spec} know {width} classes that are not the {len(classes_s)} of the source data set in '
            'their order; set config.source.name to the data set that the weights were trained on'
        )
    if head == 'keep' and known and classes_t and known != classes_t:
        raise UserError(
            f"config.model.head=keep: the {width} classes of weights {spec} are not the target data set's "
            f'{len(classes_t)}; use source or reset'
        )
    fate = {
        'source': "becomes the head 'source'; the target's is new",
        'keep': "is where the target's begins",
        'reset': "is left out; the target's is new",
    }[head]
    classifier = f'its classifier of {width} classes {fate}' if width else 'without a classifier'
    said = loaded.about.get('licence')
    licence = said if isinstance(said, str) else ''
    note = f'weights {spec}: {len(jax.tree.leaves(variables))} tensors; {classifier}'
    note += f'; licence {licence[:80]}' if licence else ''
    start = apply_head_setting(spec, variables, head, len(classes_t))
    return Start(start, note, array_cache.digest(loaded.tensors), licence)


def apply_head_setting(spec: str, variables: Tree, head: str, classes_t: int) -> Tree:
    """Return the variables after applying `config.model.head` to their classifier."""
    heads = dict(variables['params'].get('heads', {}))
    if head == 'reset':
        heads = {}
    if head == 'keep':
        width = len(heads['source']['bias']) if 'source' in heads else 0
        if width != classes_t:
            raise UserError(
                f'config.model.head=keep: weights {spec} know {width} classes and the target data set has '
                f'{classes_t}; use source or reset'
            )
        heads['target'] = heads['source']
    return {**variables, 'params': {**variables['params'], 'heads': heads}}
