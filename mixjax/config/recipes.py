"""Optimisers and schedules by the network's family, for configs whose network the user chooses (configs/folder.py).

With `config.optim.recipe='network'`, a setting of `config.optim` may be left open, by a value that it cannot have
otherwise (`OPEN`), and `mixjax.config.settle` fills it in; what the user sets stays. A pretrained transformer is
destroyed by a ResNet's recipe: with SGD at 0.01 self-supervised features are lost within a few steps.

Sources: the fine-tuning recipes of MAE (https://arxiv.org/abs/2111.06377, Table 9: AdamW, layer-wise decay, weight
decay 0.05, cosine with warm-up) and ConvNeXt (https://arxiv.org/abs/2201.03545, Table 6: AdamW, 5e-5, layer-wise decay
0.8); both have batches of 512 to 1,024 images and rates by the linear rule, so the rates here are those of a small
batch. SGD at 0.01 with a drop by ten after two thirds is SMILE's protocol.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

OPEN: dict[str, Any] = {
    'name': '', 'lr': -1.0, 'schedule': '', 'warmup': -1.0, 'weight_decay': -1.0, 'layer_decay': -1.0, 'clip': -1.0,
}  # fmt: skip
SGD: dict[str, Any] = {
    'name': 'sgd', 'lr': 0.01, 'schedule': 'step', 'warmup': 0.0, 'weight_decay': 1e-4, 'layer_decay': 1.0, 'clip': 0.0,
}  # fmt: skip
ADAMW: dict[str, Any] = {
    'name': 'adamw', 'lr': 5e-5, 'schedule': 'cosine', 'warmup': 0.05, 'weight_decay': 0.05, 'layer_decay': 0.75,
    'clip': 1.0,
}  # fmt: skip
RECIPES = {'vit': ADAMW, 'convnext': {**ADAMW, 'layer_decay': 0.8}}
# A linear probe first keeps the features of networks that have no classifier, or a weak one.
METHODS = {'vit': 'lpft', 'convnext': 'lpft'}
NETWORK = 'network'


def leave_open(config: Any, method: str) -> None:
    """Leave optimiser and method of a config open: they will be those for the network's family.

    Args:
      config: the config, which is changed.
      method: the method for families without an own one in `METHODS`.
    """
    config.optim.update({'recipe': NETWORK, **OPEN})
    config.method = ConfigDict({'name': f'{NETWORK}:{method}'})


def is_open(name: object) -> bool:
    """Return whether the name of a method is left open, as `leave_open` sets it."""
    return isinstance(name, str) and name.startswith(f'{NETWORK}:')


def method_of(name: str, family: str) -> str:
    """Return the method for a family in the place of an open name."""
    return METHODS.get(family, name.partition(':')[2])


def fill_in(config: Any, family: str) -> None:
    """Fill in the settings of the optimiser that are open; a named optimiser decides which recipe they come from.

    Args:
      config: the config, which is changed.
      family: the network's family, as `mixjax.models.family` says it.
    """
    optim = config.optim
    if optim.recipe != NETWORK:
        return
    recipe = RECIPES.get(family, SGD)
    if optim.name and (optim.name == 'sgd') != (recipe['name'] == 'sgd'):
        recipe = SGD if optim.name == 'sgd' else ADAMW
    for key, value in recipe.items():
        if optim[key] == OPEN[key]:
            optim[key] = value
