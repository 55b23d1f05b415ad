"""The cost of estimating class means from few images, and of pairing greedily, on the embedded benchmark.

    python -m reproduction.pairing

It writes the section "pairing" of docs/benchmark.md, in half a minute on two CPU cores.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mixjax import config as config_lib
from mixjax.maths import class_pairing
from mixjax.report import sections
from mixjax.rundir import files
from mixjax.train import program, seeds

SEEDS = 10
CAPS = (1, 2, 5, 10, 50)
ROUNDS = (1, 2, 4, 8, 16)
RULE = '| --: | --: | --: | --: |'
PAGE = Path(__file__).parent.parent / 'docs' / 'benchmark.md'


def main() -> None:
    config = config_lib.load('quickstart', [('method.name', 'xmixup'), ('num_seeds', str(SEEDS))])
    config.unlock().cache_dir = os.devnull  # measured again, ignoring the caches of earlier runs
    built = program.build(config.lock())
    parts = [seeds.method_data(built, seed)[0] for seed in range(SEEDS)]
    source = parts[0].source
    assert source is not None
    sizes = source.sizes
    everything = source.class_means(None)
    scores = [class_pairing.cosine(data.target.class_means(), everything) for data in parts]
    best = [class_pairing.pair(score, sizes) for score in scores]

    lines = ['| images a class | pairs that change, of 10 | similarity of the pairs | fall |', RULE]
    top = np.mean([pairs.score.mean() for pairs in best])
    for cap in CAPS:
        means = source.class_means(cap)
        changed, kept = [], []
        for data, score, pairs in zip(parts, scores, best, strict=True):
            guess = class_pairing.pair(class_pairing.cosine(data.target.class_means(), means), sizes).mapping[0]
            changed.append((guess != pairs.mapping[0]).sum())
            kept.append(score[np.arange(len(guess)), guess].mean())  # the true score of these pairs
        fall = 100 * (1 - np.mean(kept) / top)
        lines.append(f'| {cap} | {np.mean(changed):.1f} | {np.mean(kept):.4f} | {fall:.2f} % |')
    lines.append(f'| all ({sizes.min()} to {sizes.max()}) | 0.0 | {top:.4f} | 0.00 % |')

    gaps = ['| rounds | greedy | optimal assignment | gap |', RULE]
    for rounds in ROUNDS:
        greedy, exact = (
            np.mean([class_pairing.pair(score, sizes, rounds=rounds, exact=how).score.mean() for score in scores])
            for how in (False, True)
        )
        gaps.append(f'| {rounds} | {greedy:.4f} | {exact:.4f} | {100 * (1 - greedy / exact):.2f} % |')

    text = f"""## Pairing

    python -m reproduction.pairing

XMixup's pairs at 3 labels per class, means over {SEEDS} seeds, commit {files.commit() or 'none'}.
Means of the source classes from few images, against all of them; "similarity" is the mean cosine of the pairs with the
means of all images:

{chr(10).join(lines)}

`per_class` (50) changes nothing here, because no class has more images. Greedy pairing, best pair first, against the
optimal assignment in each round:

{chr(10).join(gaps)}
"""
    sections.write(PAGE, 'pairing', text)
    print(text)


if __name__ == '__main__':
    main()
