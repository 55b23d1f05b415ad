"""XMixup: cross-domain mixup (Li et al. 2020, https://arxiv.org/abs/2007.10252).

Each target class is paired with the source class whose mean pretrained feature is most similar. Every
target image is mixed with a random source image of its paired class, and so are the labels:

    x = lam x_t + (1 - lam) x_s,   y = lam y_t + (1 - lam) y_s,   lam ~ Beta(alpha, 1) for each image

No code was released, and the paper leaves open
  the label space: `labels='joint'` is one softmax over the target classes and the chosen source
    classes ("combine the labels"); `'two_heads'` is lam CE_t + (1 - lam) CE_s on two heads;
  the start of the source classifier: fresh, or the pretrained rows (`source_rows='pretrained'`);
  evaluation: the largest logit among the target classes is used here;
  alpha: its Fig. 4 recommends 2^-3 .. 2^-1 for Stanford Dogs and 2^0 .. 2^6 elsewhere; here 4;
  which source images: see `mixjax/methods/_source_selection.py`. The paper pairs until 200,000 images are chosen
    (`min_images`; 100,000 for Stanford Dogs), here one round; its Eq. 2 has the sign of the cosine wrong.
Its ablations: `auxiliary='random'` takes as many random source images (Table 3), `'all'` takes every source image
for every target class, without a selection (the right end of Fig. 3), `'target'` mixes within the target batch, and
`labels='target'` mixes images without their labels (Table 4).
"""

from __future__ import annotations

from mixjax import mix
from mixjax.errors import require
from mixjax.method import Array, Method
from mixjax.methods import _paired_mixing


def make(
    classes_t: int,
    *,
    alpha: float = 4.0,
    labels: str = 'joint',
    source_rows: str = 'fresh',
    auxiliary: str = 'paired',
    rounds: int = 1,
    min_images: int = 0,
    max_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
    union: bool = False,
) -> Method:
    """Make XMixup.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, 1).
      labels: 'joint', 'two_heads' or 'target', the label space.
      source_rows: 'fresh' or 'pretrained', the start of the source classifier.
      auxiliary: 'paired', 'random', 'all' or 'target', the images to mix with.
      rounds, min_images, max_images, per_class, exact, union: the selection, see `_source_selection.paired`.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')

    def mixed(rng: Array, image: Array, other: Array) -> tuple[Array, Array]:
        lam = mix.beta(rng, alpha, 1.0, image.shape[:1])
        return mix.blend(lam, image, other), lam

    selection = {
        'rounds': rounds, 'min_images': min_images, 'max_images': max_images, 'per_class': per_class,
        'exact': exact, 'union': union,
    }  # fmt: skip
    return _paired_mixing.method(
        classes_t, mixed, labels=labels, source_rows=source_rows, auxiliary=auxiliary, selection=selection
    )
