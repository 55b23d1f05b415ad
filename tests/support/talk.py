"""`python -m tests.support.talk`: what processes tell each other, and which images they read; as a test starts it."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from mixjax import config as config_lib
from mixjax.data.feed import batches as feed_lib
from mixjax.data.feed import stream
from mixjax.errors import UserError
from mixjax.host import cluster, processes
from mixjax.train import mesh, program, seed_batch, seeds
from mixjax.train import step as step_lib
from tests.support import tiny_config


def messages() -> None:
    """More of them than are kept."""
    for i in range(130):
        assert processes.from_first(lambda i=i: (i, processes.index(), np.arange(i)))[:2] == (i, 0)
        assert processes.gather(10 * i + processes.index()) == [10 * i + k for k in range(processes.count())]
    try:
        processes.from_first(refuse)
    except UserError as error:
        assert str(error) == 'no, says 0'
    else:
        raise AssertionError
    processes.agree('it', lambda: 'same')
    try:
        processes.agree('the network', lambda: str(processes.index()))
    except UserError as error:
        assert str(error).startswith('the network is not the same on all machines')
    else:
        assert processes.count() == 1
    # A function that only the first one carries out may call others of this kind.
    assert processes.from_first(lambda: processes.by_first(lambda: processes.index())()) == 0


def refuse() -> None:
    raise UserError(f'no, says {processes.index()}')


def batches(seeds_: int) -> dict[str, str]:
    """Hashes of the uint8 batches of some steps, of both feeds; and that no more was read than is needed."""
    config = tiny_config.get_config('xmixup')
    config.num_seeds, config.mix.groups, config.mix.shards = seeds_, 4, 4
    built = program.build(config_lib.settle(config_lib.complete(config)))
    folder = Path(processes.from_first(tempfile.mkdtemp))
    opened = [seeds.open_seed(built, seed, folder) for seed in range(seeds_)]
    out = {}
    for kind in ('resident', 'stream'):
        with built.config.unlocked():
            built.config.feed = kind
        placed = seed_batch.place_seeds(built, opened)
        if kind == 'stream':
            needed = sum(part.stop - part.start for part in placed.feed._shares)
            read = [stream.examples(tree, planner, 0, part) for tree, planner, part in placed.feed._seeds]
            assert sum(len(one['image']) for one in read) == needed
            assert needed == config.batch_size * seeds_ // processes.count(), needed

        def one(key, step, inputs, kind=kind):
            if kind == 'stream':
                return feed_lib.select_batch(inputs, step)
            return feed_lib.gather_batch(inputs, key, step, config.batch_size, config.mix.groups)

        every = jax.jit(mesh.each_trial(built.mesh, one, (False, True, False)))
        keys = mesh.shard_over_trials(built.mesh, [step_lib.keys(seed.state.key).data for seed in opened])
        for step in range(3):
            found = mesh.to_host(every(keys, np.int32(step), placed.feed.inputs(step, 1)))
            assert found['image'].dtype == found['source_image'].dtype == np.uint8
            text = b''.join(name.encode() + found[name].tobytes() for name in sorted(found))
            out[f'{kind} {step}'] = hashlib.sha256(text).hexdigest()
        placed.close()
    return out


if __name__ == '__main__':
    cluster.join(dict(word[2:].split('=') for word in sys.argv[2:]))
    with processes.end_together():
        messages()
        print('found', json.dumps(batches(int(sys.argv[1]))))
