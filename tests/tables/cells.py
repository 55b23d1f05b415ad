"""The cells of the papers' tables: their runs, and which of them have the same program."""

from __future__ import annotations

import functools
import json
from typing import Any

from mixjax.commands import grid
from mixjax.report import papers
from mixjax.rundir import files

ROOT = 'runs/tables'
# What a data set brings with it, and how long and how often; the program of a step is another one only in its sizes.
OF_THE_DATA = (
    *('target', 'source', 'data_dir', 'cache_dir', 'feed', 'store', 'results'),
    *('steps', 'seed', 'num_seeds', 'eval_every', 'checkpoint_every', 'log_every', 'eval_batch_size'),
    *('image.resize', 'image.fit', 'image.interpolation', 'image.flip', 'image.mean', 'image.std', 'model.weights'),
)


@functools.cache
def runs(table: str) -> tuple[grid.Run, ...]:
    """The different runs of a table."""
    return tuple(grid.runs(f'tables/{table}', [], ROOT))


def names() -> list[str]:
    """All grids: of the tables that are printed, and of comparisons without numbers."""
    return [*papers.tables(), *papers.UNPRINTED]


def every(tables: tuple[str, ...] = ()) -> dict[str, grid.Run]:
    """{name: run}, each once, of some tables or of all."""
    out: dict[str, grid.Run] = {}
    for table in tables or names():
        for run in runs(table):
            out.setdefault(run.folder.name, run)
    return out


def step_of(config: Any) -> str:
    """What tells the program of a training step from others; equal for cells that differ in their data only."""
    data = files.to_data(config)
    pretrained = bool(config.model.weights)
    for key in OF_THE_DATA:
        *groups, last = key.split('.')
        functools.reduce(lambda node, group: node[group], groups, data).pop(last)
    return json.dumps([pretrained, data], sort_keys=True)


def pair_of(config: Any) -> str:
    """The method and the network. Numbers do not make another method, words do: `auxiliary='random'`."""
    knobs = {key: value for key, value in config.method.items() if isinstance(value, str) or key == 'wrappers'}
    return json.dumps([config.model.name, knobs], sort_keys=True)


def first_of_each(found: dict[str, grid.Run], key: Any) -> dict[str, grid.Run]:
    """{key: the first run that has it}."""
    out: dict[str, grid.Run] = {}
    for run in found.values():
        out.setdefault(key(run.config), run)
    return out


def traces(tables: tuple[str, ...] = ()) -> dict[str, grid.Run]:
    """The runs whose steps are traced."""
    return first_of_each(every(tables), step_of)


def pairs(tables: tuple[str, ...] = ()) -> dict[str, grid.Run]:
    """The runs whose `:smoke` form is trained."""
    return first_of_each(every(tables), pair_of)
