"""Checkpoints: a thin wrapper of Orbax, so that nothing else knows of it.

A checkpoint holds the whole `TrainState` and the format's version; not `frozen` (it lies in
`prepared-<seed>.npz`) and not the pretrained network (it is read from its weights).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mixjax.errors import UserError
from mixjax.processes import by_first, from_first

Tree = Any
FORMAT = 1
KEEP = 2
_opened = itertools.count()


def open_folder(folder: Path) -> ocp.CheckpointManager:
    """The checkpoints of one seed; the caller closes it (it is a context manager)."""
    # Processes meet by name, and several seeds are saved at once: each has names of its own.
    names = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f'seed-{next(_opened)}')
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, create=True, step_prefix='step', multiprocessing_options=names
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, state: Tree) -> None:
    """Start writing the state of this step; Orbax finishes in the background.

    A copy is saved, because the training program reuses the memory of the state that it is given.
    """
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
            meta=ocp.args.JsonSave({'format': FORMAT}),
        ),
    )


@by_first
def newest(folder: Path) -> int | None:
    """The newest step that lies whole in a folder, without opening it."""
    steps = [path.name.removeprefix('step_') for path in folder.glob('step_*')]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def read(folder: Path, step: int) -> Tree:
    """All arrays of one checkpoint of a seed as nested dicts, whatever state was saved; on one device."""
    place = folder.absolute() / f'step_{step}' / 'state'
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            found: Any = checkpointer.metadata(place)
            wanted = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), found.item_metadata.tree
            )
            return checkpointer.restore(place, wanted)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f'the checkpoint {folder.name}/step_{step} cannot be read ({str(error).splitlines()[0]})'
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warning that a part of a checkpoint, read by itself, has no metadata of its own."""
    logger = logging.getLogger('absl')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def latest(managers: list[ocp.CheckpointManager]) -> int | None:
    """The newest step that all of these seeds have a checkpoint of; None if there is none."""
    return from_first(lambda: max(set.intersection(*(set(one.all_steps()) for one in managers)), default=None))


def restore(manager: ocp.CheckpointManager, step: int, state: Tree) -> Tree:
    """The checkpoint of that step in the layout of `state`."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    try:
        found: Any = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        if found.meta['format'] != FORMAT:
            raise UserError(
                f'the checkpoints are of format {found.meta["format"]} and this version of mixjax reads {FORMAT}; '
                'continue the run with the version that began it (see env.json), or use another --workdir'
            )
        restored: Any = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
    except (ValueError, KeyError, OSError) as error:
        place = f'{manager.directory.parent.name}/{manager.directory.name}/step_{step}'
        raise UserError(
            f'the checkpoint {place} cannot be read ({str(error).splitlines()[0]}); remove that folder to go on '
            'from the one before it'
        ) from error
    return restored.state
