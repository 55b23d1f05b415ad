"""Checkpoints: a thin wrapper of Orbax, so that no other module imports it.

A checkpoint holds the whole `TrainState` and the format's version; not `frozen` (it is in
`prepared-<seed>.npz`) and not the pretrained network (it is read from its weights).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.processes import by_first, from_first
from mixjax.host.storage import Place
from mixjax.rundir import integrity

Tree = Any
KEEP = 2
_opened = itertools.count()
_sealers: weakref.WeakKeyDictionary[ocp.CheckpointManager, integrity.Sealer] = weakref.WeakKeyDictionary()


def open_folder(folder: Place) -> ocp.CheckpointManager:
    """Open the checkpoints of one seed; the caller closes it (it is a context manager)."""
    # Processes meet by name, and several seeds are saved at once, so each has separate names.
    names = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=f'seed-{next(_opened)}')
    seal = integrity.Sealer(folder)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, create=True, step_prefix='step', multiprocessing_options=names,
        cleanup_tmp_directories=True,  # half-written checkpoints of a run that was killed
        async_options=ocp.AsyncOptions(post_finalization_callback=seal),
    )  # fmt: skip
    try:
        storage.make_folder(folder)
        integrity.refuse_links(folder)
        manager = ocp.CheckpointManager(storage.absolute(folder), options=options)
    except (storage.IsLink, NotADirectoryError, FileExistsError) as error:
        raise UserError(f'the checkpoints in {folder} cannot be written: {error.strerror}') from error
    except (OSError, UserError):
        raise  # a full or read-only disk
    except Exception as error:  # Orbax reads its notes beside the checkpoints here
        raise UserError(
            f'the checkpoints in {folder} cannot be opened ({_line(error)}); put the files back from a copy, '
            'or begin again in another --workdir'
        ) from error
    _sealers[manager] = seal
    return manager


def save(manager: ocp.CheckpointManager, step: int, state: Tree) -> None:
    """Start writing the state of this step; Orbax finishes in the background.

    A copy is saved, because the training program reuses the memory of the state that it is given.
    """
    _sealers[manager].step = step
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
            meta=ocp.args.JsonSave({'format': integrity.FORMAT}),
        ),
    )


def finish(managers: list[ocp.CheckpointManager]) -> None:
    """Wait until everything that was begun is written."""
    for manager in managers:
        manager.wait_until_finished()


@by_first
def newest(folder: Place) -> int | None:
    """Return the newest step that is complete in a folder, without opening it."""
    return max(integrity.steps(folder), default=None)


def read(folder: Place, step: int) -> Tree:
    """Read all arrays of one checkpoint of a seed as nested dicts, for any saved state; on one device."""
    why = integrity.fault(folder / f'step_{step}')
    if why:
        raise UserError(f'the checkpoint {folder.name}/step_{step} is damaged: {why}')
    place = storage.absolute(folder) / f'step_{step}' / 'state'
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            found: Any = checkpointer.metadata(place)
            wanted = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), found.item_metadata.tree
            )
            return checkpointer.restore(place, wanted)
    except Exception as error:  # as in `restore`
        raise UserError(f'the checkpoint {folder.name}/step_{step} cannot be read ({_line(error)})') from error


def _line(error: Exception) -> str:
    """Return the first line of a library's error."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's warning that a part of a checkpoint, read alone, has no separate metadata."""
    logger = logging.getLogger('absl')
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def latest(managers: list[ocp.CheckpointManager]) -> int | None:
    """Return the newest step for which all of these seeds have a checkpoint; None if there is none."""
    return from_first(lambda: max(set.intersection(*(set(one.all_steps()) for one in managers)), default=None))


def restore(manager: ocp.CheckpointManager, step: int, state: Tree) -> Tree:
    """Restore the checkpoint of that step in the layout of `state`."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    place = f'{manager.directory.parent.name}/{manager.directory.name}/step_{step}'
    try:
        found: Any = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        integrity.check_format(found.meta['format'], place)
        restored: Any = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        if _form(restored.state) != _form(abstract):
            raise ValueError('its arrays are not those of this network')
    except UserError:
        raise
    except Exception as error:  # malformed files: the readers fail in every possible way
        raise UserError(
            f'the checkpoint {place} cannot be read ({_line(error)}); '
            'remove that folder to go on from the one before it'
        ) from error
    return restored.state


def _form(tree: Tree) -> list[Any]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
