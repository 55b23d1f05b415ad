"""LP-FT: a linear probe, then fine-tuning from it (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

    W, b = argmin sum_i CE(W^T x_i + b, y_i) + ||W||^2 / (2 C),   then   L = mean_B CE(z, y) on all parameters

With a random head, the first steps of fine-tuning distort the pretrained features to fit that head. Here it begins
as the converged probe (`probe`, with its cross-validation), so the run's steps are all fine-tuning. The paper runs a
probe of the same kind and then fine-tunes at a small learning rate, which is `config.optim.lr`.
"""

from __future__ import annotations

from mixjax.method import Method
from mixjax.methods import finetune, probe


def make(
    classes_t: int, *, strength: float = 0.0, folds: int = 5, repeats: int = 3, standardize: bool = True
) -> Method:  # fmt: skip
    """Make LP-FT.

    Args:
      classes_t: number of target classes.
      strength, folds, repeats, standardize: those of the probe.
    """
    start = probe.make(classes_t, strength=strength, folds=folds, repeats=repeats, standardize=standardize)
    # The probe is one of classes.
    return finetune.make(classes_t)._replace(prepare=start.prepare, heads=start.heads, tasks=start.tasks)
