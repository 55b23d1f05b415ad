"""`python -m tests.launch.trials SEEDS`: trains so many seeds at once, each on a core of its own; as a test starts it.

For each line of its input it takes some steps and says the seconds of one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

STEPS = 10


def main(count: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={count}'
    import jax

    from mixjax import config as config_lib
    from mixjax.train import program, seed_batch, seeds

    config = config_lib.read('quickstart')
    config.compare, config.baseline, config.method = {}, '', {'name': 'mixup'}
    config.num_seeds, config.feed = count, 'resident'
    built = program.build(config_lib.settle(config_lib.complete(config)))
    assert dict(built.mesh.shape) == {'trial': count, 'data': 1}
    with tempfile.TemporaryDirectory() as folder:
        opened = [seeds.open_seed(built, seed, Path(folder)) for seed in range(count)]
        placed, ts = (
            seed_batch.place_seeds(built, opened),
            seed_batch.stack_states(built, [one.state for one in opened]),
        )
        step = 0
        for _ in sys.stdin:
            began = time.perf_counter()
            for _ in range(STEPS):
                ts, metrics = built.advance(1)(ts, built.shared.start, placed.frozen, placed.feed.inputs(step, 1))
                step += 1
            jax.block_until_ready(metrics)
            print((time.perf_counter() - began) / STEPS, flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]))
