"""Shared by the tests: fixtures from disk, and a network small enough to compile in a second."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from mixjax import models
from mixjax.models.net import Net, from_linen

FIXTURES = Path(__file__).parents[1] / 'fixtures'


SHIPPED = sorted(set(models.names()) - {'tiny'})  # networks; other tests may have registered theirs


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f'{name}.npz', allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


class _Stage(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train, tap):
        x = tap(f'{self.name}.conv', nn.Conv(self.width, (3, 3), use_bias=False, name='conv')(x))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name='bn')(x)), x


class Tiny(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, image, *, train, tap):
        hidden, _ = _Stage(self.width, name='stem')(image, train, tap)
        hidden, conv = _Stage(self.width, name='stage1')(tap('stem', hidden)[:, ::2, ::2], train, tap)
        hidden = tap('stage1', hidden)
        return hidden.mean((1, 2)), {'stage1.conv': conv, 'stage1': hidden, 'last': hidden}


def tiny_net(width: int = 4) -> Net:
    """Two convolutions with BatchNorm."""
    return from_linen(Tiny(width))


def assert_trees_equal(a, b):
    """Bit for bit, also of typed keys."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(plain(x), plain(y))


# --- the command, as a person runs it ---------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
SHORT = ['--config.steps=24', '--config.eval_every=8', '--config.checkpoint_every=8', '--config.log_every=4']


def environment() -> dict[str, str]:
    """One CPU device, and the source tree importable from any folder."""
    flags = [flag for flag in os.environ.get('XLA_FLAGS', '').split() if 'device_count' not in flag]
    return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ' '.join(flags)}


def command(*words: str, module: str = 'mixjax.main') -> list[str]:
    return [sys.executable, '-m', module, *words]


def call(folder: Path, *words: str, module: str = 'mixjax.main') -> subprocess.CompletedProcess:
    """Run a command in `folder` to its end, with the compiled programs of all tests (conftest.py).

    An empty JAX_COMPILATION_CACHE_DIR lets it keep its programs as a user's command does.
    """
    shared: Any = jax.config  # its attributes are defined at import time
    env = {
        'JAX_COMPILATION_CACHE_DIR': shared.jax_compilation_cache_dir or '',
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1', **environment(),
    }  # fmt: skip
    return subprocess.run(
        command(*words, module=module), cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kill_after(folder: Path, seed: int, step: int, *words: str, run: str = 'run') -> None:
    """Start the command, and SIGKILL it as soon as `metrics.jsonl` of `run` has that step of that seed."""
    process = subprocess.Popen(command(*words), cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            metrics = folder / run / 'metrics.jsonl'
            if metrics.exists() and f'"seed": {seed}, "step": {step},' in metrics.read_text():
                break
            time.sleep(0.01)
        assert process.poll() is None, 'the run ended before it could be killed'
    finally:
        process.kill()
        process.wait()


def final_state(run: Path, seed: int, steps: int) -> dict:
    """All arrays of a checkpoint, by name."""
    folder = run / 'checkpoints' / str(seed) / f'step_{steps}' / 'state'
    here = SingleDeviceSharding(jax.devices()[0])  # a run of several processes has left its own devices
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder.absolute()).item_metadata.tree
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), found)
        tree = checkpointer.restore(folder.absolute(), wanted)
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): plain(leaf) for path, leaf in flat}


def plain(leaf: jax.Array) -> np.ndarray:
    """As numpy has it; a typed key by its data."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same_run(a: Path, b: Path, seeds: range, steps: int) -> None:
    """Parameters, method state, metrics and results of two runs are equal bit for bit."""
    for name in ('metrics.jsonl', 'results.json', 'splits.json', 'config.json', 'model.safetensors'):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    for seed in seeds:
        left, right = final_state(a, seed, steps), final_state(b, seed, steps)
        assert left.keys() == right.keys() and len(left) > 20
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def no_threads_are_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith(('mixjax', 'grain'))]
