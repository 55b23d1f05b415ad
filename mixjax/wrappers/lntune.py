"""LN-Tune: only normalisation layers learn (Basu et al. 2024, https://arxiv.org/abs/2304.01917).

    all parameters of the trunk but the scales and biases of normalisation layers are frozen

Heads learn as before, and so does what the method adds to the network. The paper tunes layer normalisation, and finds
it among the best of the cheap ways on few labels. BatchNorm's scales and biases are tuned alike; with `bn='train'` it
normalises by the batch, and its running statistics follow the target, as in fine-tuning; with `bn='frozen'` it keeps
those of the pretrained network.
"""

from __future__ import annotations

from mixjax.method import Method
from mixjax.wrappers import is_norm, only


def wrap(method: Method, classes_t: int, *, bn: str = 'train') -> Method:
    """Wrap a method in LN-Tune.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      bn: 'train' or 'frozen', see above.
    """
    del classes_t
    return only(method, is_norm, bn)
