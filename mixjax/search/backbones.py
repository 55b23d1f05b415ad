"""The networks of a search: by name, with the weights that are known for them, or by their weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mixjax import models
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.models.weights import hub, loading, package_index

# Tried where none is named, if their weights are here or can be fetched: one of each kind that does well.
DEFAULT = ('vit_small_patch14_dinov2', 'convnext_tiny', 'efficientnet_lite0')
# Of several recipes of an architecture: the one to take if only the architecture is named.
TAGS = ('lvd142m', 'lvd1689m', 'v2_webli', 'openai', 'in12k_ft_in1k', 'augreg_in21k_ft_in1k', 'fb_in22k_ft_in1k')


class Backbone(NamedTuple):
    """A pretrained network.

    Attributes:
      name: of the architecture, as `config.model.name`.
      weights: where its weights are, as `config.model.weights`.
    """

    name: str
    weights: str


def known_weights(name: str) -> list[str]:
    """Return where weights of an architecture are known to be, the ones to take first."""
    if name in weights.EMBEDDED:
        return [f'{weights.EMBEDDED_PREFIX}{name}']
    of_hub = [repository for repository, about in hub.KNOWN.items() if about['model'] == name]

    def rank(repository: str) -> int:
        tag = repository.partition('.')[2]
        return TAGS.index(tag) if tag in TAGS else len(TAGS)

    found = [f'{hub.PREFIX}{repository}' for repository in sorted(of_hub, key=rank)]
    return found + [
        f'{package_index.PREFIX}{p}' for p, about in package_index.PACKAGES.items() if about.network == name
    ]


def parse(text: str) -> Backbone:
    """Return the backbone that a user names: NAME, NAME=WEIGHTS, or WEIGHTS alone where they say what they are of."""
    name, equals, spec = text.partition('=')
    if equals and name in models.names():
        return Backbone(name, spec)
    if text in models.names():
        known = known_weights(text)
        if not known:
            raise UserError(
                f'no weights are known of the network {text}; say where they are, {text}=PATH or {text}=hf://OWNER/NAME'
            )
        here = [spec for spec in known if loading.is_here(spec)]
        return Backbone(text, next((spec for spec in (*here, *known) if weights.missing(spec) is None), known[0]))
    lost = weights.missing(text) if '/' in text or '.' in text else models.unknown(text)
    if lost:
        raise UserError(lost)
    network = weights.network(text)
    if network not in models.names():
        what = f'are of {network!r}, which is not among the networks here' if network else 'do not say of which network'
        raise UserError(f'the weights {text} {what}; name it, NETWORK={text}')
    return Backbone(network, text)


def chosen(named: Sequence[str]) -> tuple[list[Backbone], list[str]]:
    """Return the backbones of a search, and a note on each of those that cannot be had.

    Args:
      named: what the user named; empty for `DEFAULT`.
    """
    if named:
        found = [parse(text) for text in named]
        for one in found:
            lost = weights.missing(one.weights)
            if lost:
                raise UserError(lost)
        return list(dict.fromkeys(found)), []
    found, notes = [], []
    for name in DEFAULT:
        backbone = parse(name)
        if weights.missing(backbone.weights) is None:
            found.append(backbone)
        else:
            notes.append(f'{name} is left out: its weights {backbone.weights} are not here and cannot be fetched')
    if not found:
        raise UserError(
            f'none of the networks that are tried by themselves has its weights here ({", ".join(DEFAULT)}), and they '
            'cannot be fetched; name others, as in --networks=resnet50=PATH/model.safetensors, or copy the weights '
            'from another machine (docs/networks.md); pictures like 16 x 16 letters can do with --networks=glyphnet'
        )
    return found, notes
