"""What holds of every method, on any network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.rundir import checkpoint
from mixjax.train import mesh, program, seed_batch, seeds
from tests.support.common import assert_trees_equal
from tests.support.toy import losses_of, opened, walk


def assert_contract(config, tmp_path):
    """Train a toy task for 40 steps: it is finite, learns, resumes bit for bit, and keeps to the contract."""
    built, data, ts = opened(config, tmp_path)
    start, frozen = jax.tree.map(np.array, (built.shared.start, data.frozen))
    shapes = jax.eval_shape(lambda x: x, ts)

    middle, metrics = walk(built, data, ts, 15)
    with checkpoint.open_folder(tmp_path / 'checkpoints') as manager:
        checkpoint.save(manager, 15, mesh.take_trial(middle, 0))
        manager.wait_until_finished()
        fresh = seeds.open_seed(built, 0, tmp_path)
        resumed = seed_batch.stack_states(built, [checkpoint.restore(manager, 15, fresh.state)])
    straight, rest = walk(built, data, middle, 25)
    again, rest_again = walk(built, data, resumed, 25)

    # A restart continues bit for bit.
    assert_trees_equal(straight, again)
    assert rest == rest_again
    # Traced once.
    assert built.advance(1)._cache_size() == 1
    # Finite, and the loss falls.
    losses = [m['loss'] for m in metrics + rest]
    assert np.isfinite([list(m.values()) for m in metrics + rest]).all()
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    # `frozen` and the pretrained network are untouched, and the state keeps its shape.
    assert_trees_equal(start, jax.tree.map(np.array, built.shared.start))
    assert_trees_equal(frozen, jax.tree.map(np.array, data.frozen))
    assert jax.eval_shape(lambda x: x, straight) == shapes
    # The declared heads exist, and predictions are over the target's classes.
    heads = built.method.heads(10, 160, fresh.prepared)
    one, network = mesh.take_trial(straight, 0), mesh.take_trial(built.evaluated(straight), 0)
    assert {n: h['bias'].shape[0] for n, h in one.params['heads'].items()} == {n: h.width for n, h in heads.items()}
    out, _ = built.net.apply(network, jnp.zeros((3, 16, 16, 1)), train=False)
    assert built.method.predict(out).shape == (3, 10)


def laid_out(make, devices, trials, dtype='float32'):
    """The program of `make(devices=.., num_seeds=..)`."""
    config = make(devices=devices, num_seeds=trials)
    with config.unlocked():
        config.model.dtype = dtype
    return program.build(config)


def assert_layouts_agree(make, tmp_path):
    """One device, eight for a seed, and three seeds on two each: every seed has the same losses."""
    with jax.enable_x64(True):
        one, eight, three = (laid_out(make, n, t, 'float64') for n, t in ((1, 1), (8, 1), (8, 3)))
        shapes = [tuple(built.mesh.devices.shape) for built in (one, eight, three)]
        assert shapes == [(1, 1), (1, 8), (3, 2)]
        alone = {seed: losses_of(one, tmp_path / 'one', (seed,))[seed] for seed in range(3)}
        np.testing.assert_allclose(losses_of(eight, tmp_path / 'eight')[0], alone[0], rtol=1e-9)
        (tmp_path / 'three').mkdir()
        together = {}
        for group in seeds.group_seeds(three, tmp_path / 'three'):
            together |= losses_of(three, tmp_path / 'three', group)
    for seed in range(3):
        np.testing.assert_allclose(together[seed], alone[seed], rtol=1e-9)
        assert seed == 0 or not np.allclose(together[seed], together[0])
