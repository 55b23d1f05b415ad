"""BitFit: only biases learn (Ben Zaken et al. 2022, https://arxiv.org/abs/2106.10199).

    all parameters of the trunk but the biases, those of normalisation layers included, are frozen

Heads learn as before, and so does what the method adds to the network. The paper's networks have layer normalisation
only; with `bn='train'` BatchNorm normalises by the batch, and its running statistics follow the target, as in
fine-tuning; with `bn='frozen'` it keeps those of the pretrained network.
"""

from __future__ import annotations

from mixjax.method import Method
from mixjax.wrappers import only


def wrap(method: Method, classes_t: int, *, bn: str = 'train') -> Method:
    """Wrap a method in BitFit.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      bn: 'train' or 'frozen', see above.
    """
    del classes_t
    return only(method, lambda path, params: path[-1] == 'bias', bn)
