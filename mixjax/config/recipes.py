"""Optimisers and schedules by the network's family, for configs whose network the user chooses (configs/folder.py).

A setting of `config.optim` is left open by a value that none can have (`OPEN`); `mixjax.config.settle` fills in the
open ones, so what the user sets stays. A pretrained transformer is destroyed by a ResNet's recipe: with SGD at 0.01
self-supervised features are lost within a few steps.

Sources: the fine-tuning recipes of MAE (https://arxiv.org/abs/2111.06377, Table 9: AdamW, layer-wise decay, weight
decay 0.05, cosine with warm-up) and ConvNeXt (https://arxiv.org/abs/2201.03545, Table 6: AdamW, 5e-5, layer-wise decay
0.8); both have batches of 512 to 1,024 images and rates by the linear rule, so the rates here are those of a small
batch. SGD at 0.01 with a drop by ten after two thirds is SMILE's protocol.
"""

from __future__ import annotations

from typing import Any

OPEN: dict[str, Any] = {
    'name': '', 'lr': 0.0, 'schedule': '', 'warmup': -1.0, 'weight_decay': -1.0, 'layer_decay': 0.0, 'clip': -1.0,
}  # fmt: skip
SGD: dict[str, Any] = {
    'name': 'sgd', 'lr': 0.01, 'schedule': 'step', 'warmup': 0.0, 'weight_decay': 1e-4, 'layer_decay': 1.0, 'clip': 0.0,
}  # fmt: skip
ADAMW: dict[str, Any] = {
    'name': 'adamw', 'lr': 5e-5, 'schedule': 'cosine', 'warmup': 0.1, 'weight_decay': 0.05, 'layer_decay': 0.75,
    'clip': 1.0,
}  # fmt: skip
RECIPES = {'vit': ADAMW, 'convnext': {**ADAMW, 'layer_decay': 0.8}}


def leave_open(config: Any) -> None:
    """Leave the optimiser of a config open: it will be that of the network's family."""
    config.optim.update(OPEN)


def fill_in(config: Any, family: str) -> None:
    """Fill in the settings of the optimiser that are open; a named optimiser decides which recipe they come from.

    Args:
      config: the config, which is changed.
      family: the network's family, as `mixjax.models.family` says it.
    """
    optim = config.optim
    recipe = RECIPES.get(family, SGD)
    if optim.name and (optim.name == 'sgd') != (recipe['name'] == 'sgd'):
        recipe = SGD if optim.name == 'sgd' else ADAMW
    for key, value in recipe.items():
        if optim[key] == OPEN[key]:
            optim[key] = value
