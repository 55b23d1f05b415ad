"""The grids of the tables: which runs there are, what they share, and that their settings are the papers'."""

import functools
import re

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.commands import grid
from mixjax.config import cells as arguments
from mixjax.config import grid_files
from mixjax.data.labelled import run_data
from mixjax.errors import UserError
from mixjax.planner import assumed
from mixjax.report import papers
from mixjax.rundir import files
from tests.support.common import ROOT
from tests.tables import cells

# Different runs of each table. Five seeds are one run.
RUNS = {
    'smile_table2': 108, 'smile_table3': 36, 'smile_table4': 4,
    'xmixup_table1': 36, 'xmixup_table2': 6, 'xmixup_table3': 6, 'xmixup_table4': 9,
    'lamix_table1': 40, 'lamix_table2': 12, 'lamix_table3': 30, 'lamix_table4': 4,
    'lamix_table5': 36, 'lamix_table6': 8, 'lamix_table7': 8, 'lamix_table8': 8, 'smile_with_mixup': 84,
}  # fmt: skip
# What tables have in common: (runs of both, a table, another).
SHARED = [
    (6, 'xmixup_table1', 'xmixup_table2'), (3, 'xmixup_table1', 'xmixup_table4'), (0, 'xmixup_table1', 'xmixup_table3'),
    (10, 'lamix_table1', 'lamix_table3'), (8, 'lamix_table1', 'lamix_table5'), (4, 'lamix_table5', 'lamix_table6'),
    (4, 'lamix_table1', 'lamix_table7'), (4, 'lamix_table1', 'lamix_table8'), (0, 'lamix_table3', 'lamix_table4'),
    (0, 'smile_table2', 'smile_table4'), (2, 'smile_table2', 'xmixup_table1'),
    (12, 'smile_table2', 'smile_with_mixup'),
]  # fmt: skip
MEASURED = {'smile_table4', 'xmixup_table2'}  # measurements of finished runs


def argument_of(spec: str) -> dict[str, str]:
    return dict(part.split('=') for part in spec.partition(':')[2].split(','))


def config(table: str, argument: str):
    return config_lib.load(f'tables/{table}:{argument}')


def names(table: str) -> set[str]:
    return {run.folder.name for run in cells.runs(table)}


def test_every_table_has_a_grid_and_every_grid_is_a_table():
    assert {f'tables/{table}' for table in cells.names()} == {
        name for name in config_lib.shipped() if name.startswith('tables/')
    }
    assert {grid_files.root(f'tables/{table}') for table in cells.names()} == {'runs/tables'}
    assert {grid_files.root(f'configs/tables/{table}.py') for table in cells.names()} == {'runs/tables'}


def test_how_many_runs_each_table_has():
    assert {table: len(cells.runs(table)) for table in cells.names()} == RUNS


def test_a_run_of_several_tables_is_one():
    assert [len(names(a) & names(b)) for _, a, b in SHARED] == [count for count, *_ in SHARED]
    assert len(cells.every()) == 382 == len(set().union(*map(names, cells.names())))
    # Plain fine-tuning and BSS of all of CUB, by two papers.
    both = names('smile_table2') & names('xmixup_table1')
    assert {name.rpartition('-')[0] for name in both} == {'cub200-finetune-all', 'cub200-bss-all'}


@pytest.mark.parametrize('table', papers.tables())
def test_numbers_and_cells_are_the_same_ones(table):
    """Each number of the paper is a metric of one cell, and each cell has its numbers."""
    found = [argument_of(spec) for run in cells.runs(table) for spec in run.specs]
    assert len({tuple(cell) for cell in found}) == 1
    wanted = [
        tuple(getattr(number, key) for key in found[0])
        for number in papers.of(table)
        if number.dataset != papers.AVERAGE
    ]
    metrics = 4 if table == 'smile_table4' else 3 if table == 'xmixup_table2' else 1
    assert sorted(wanted) == sorted(tuple(cell.values()) for cell in found for _ in range(metrics))
    assert (len({number.metric for number in papers.of(table)}) > 1) == (table in MEASURED)
    # The paper's order is the grid's.
    assert [tuple(cell.values()) for cell in found] == list(dict.fromkeys(wanted)) or table == 'xmixup_table2'


@pytest.mark.parametrize(
    ('name', 'table', 'argument'),
    [
        ('smile_cub', 'smile_table2', 'dataset=cub200,split=all_100,method=smile'),
        ('xmixup_dogs', 'xmixup_table1', 'dataset=stanford_dogs,method=xmixup'),
        ('lamix_cifar100', 'lamix_table1', 'network=preactresnet18,dataset=cifar100,method=lamix'),
    ],
)
def test_the_shipped_examples_are_cells(name, table, argument):
    assert files.to_data(config_lib.load(name)) == files.to_data(config(table, argument))
    assert config_lib.load(f'tables/{table}').num_seeds == 5  # without an argument it is one of the cells


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_of_smile():
    found = {run.folder.name: run.config for run in cells.runs('smile_table2')}
    for one in found.values():
        assert (one.steps, one.batch_size, one.num_seeds, one.keep) == (9000, 48, 5, 'last')
        assert (one.optim.lr, one.optim.nesterov, one.optim.weight_decay) == (0.01, True, 1e-4)
        assert (one.image.resize, one.image.crop) == (256, 224) and not one.source.name
        assert one.image.fit == ('short' if one.target.name == 'cub200' else 'squash')
    knobs = {(c.target.name, c.method.name): c.method for c in found.values()}
    assert [knobs[d, 'l2sp'].alpha for d in ('cub200', 'stanford_cars', 'fgvc_aircraft')] == [0.001, 0.0001, 0.001]
    assert [knobs[d, 'delta'].alpha for d in ('cub200', 'stanford_cars', 'fgvc_aircraft')] == [0.01, 0.001, 0.001]
    assert [knobs[d, 'rifle'].resets for d in ('cub200', 'stanford_cars', 'fgvc_aircraft')] == [2, 4, 4]
    assert [knobs[d, 'regsl'].distance for d in ('cub200', 'stanford_cars', 'fgvc_aircraft')] == [0.2044, 1.334, 1.183]
    assert {knobs[d, m].form for d, m in knobs if m in ('l2sp', 'delta')} == {'smile'}
    assert knobs['cub200', 'mixup'].alpha == 0.2 and knobs['cub200', 'mixup'].fold
    assert knobs['cub200', 'cotuning'].calibration == 0.8840456604957581


def test_settings_of_smile_with_mixup():
    """What its Table 2 has without, the method and its settings, with the Mixup of that table."""
    found = {tuple(argument_of(run.specs[0]).values()): run.config for run in cells.runs('smile_with_mixup')}
    plain = {tuple(argument_of(run.specs[0]).values()): run.config for run in cells.runs('smile_table2')}
    for (dataset, split, method), one in found.items():
        other = plain[dataset, split, method.removesuffix('_mixup')]
        mixed = {} if method == 'smile' else {'wrappers': ['mixup'], 'mixup_alpha': 0.2, 'mixup_fold': True}
        said, known = files.to_data(one), files.to_data(other)
        assert said.pop('method') == {**known.pop('method'), **mixed} and said == known
    names = {method for *_, method in found}
    assert names == {*(f'{name}_mixup' for name in ('l2sp', 'delta', 'bss', 'rifle', 'cotuning', 'regsl')), 'smile'}


def test_settings_of_smile_on_scenes_and_food():
    for run in cells.runs('smile_table3'):
        one = run.config
        food = one.target.name == 'food101'
        assert one.model.weights == (
            'hf://timm/tf_efficientnet_b4.aa_in1k' if food else 'weights/resnet50_places365.pth.tar'
        )
        assert (one.image.crop, one.image.resize, one.image.interpolation) == (224, 256, 'bilinear')
        assert one.model.name == ('efficientnet_b4_fixed380' if food else 'resnet50')
        if one.method.name == 'smile':
            assert one.method.feature == ('stage7' if food else 'map')
    added = config('smile_table4', 'method=finetune_add').target
    assert (added.rate, added.add_rest) == (0.3, True)
    assert not config('smile_table4', 'method=finetune').target.add_rest


def test_settings_of_xmixup():
    for run in cells.every(('xmixup_table1', 'xmixup_table3', 'xmixup_table4')).values():
        one, dogs = run.config, run.config.target.name == 'stanford_dogs'
        assert one.optim.lr == (0.001 if dogs else 0.01) and one.image.fit == 'short'
        draws_images = 'min_images' in one.method and one.method.get('auxiliary') != 'target'
        assert (one.source.name == 'imagenet2012') == draws_images
        if draws_images:
            assert one.method.min_images == (100_000 if dogs else 200_000) and one.method.per_class == 0
        if one.method.name == 'xmixup':
            assert one.method.alpha == (0.5 if dogs else 4)


def test_settings_of_lamix():
    for run in cells.every(('lamix_table1', 'lamix_table2', 'lamix_table5', 'lamix_table6')).values():
        one = run.config
        assert (one.batch_size, one.optim.lr, one.optim.nesterov, one.optim.drops) == (128, 0.1, False, (0.5, 0.75))
        side = 64 if one.target.name == 'tiny_imagenet' else 32
        assert (one.image.crop, one.image.resize, one.image.pad) == (side, side, 4) and not one.model.weights
        assert one.image.flip == (one.target.name not in ('mnist', 'svhn'))
    assert config('lamix_table1', 'network=resnet50,dataset=svhn,method=mixup').steps == round(400 * 73_257 / 128)
    smoothed = config('lamix_table5', 'dataset=cifar10,network=resnet50,method=mixup_uls0.3').method
    assert (smoothed.label_smoothing, smoothed.alpha) == (0.3, 1)
    plain = config('lamix_table7', 'dataset=cifar10,network=resnet50,method=lamix_without_originals').method
    assert (plain.originals, plain.beta) == (False, 0.5)
    assert config('lamix_table8', 'dataset=cifar10,network=resnet50,method=lamix_without_global').method.beta == 1


def test_settings_of_puzzlemix():
    found = cells.every(('lamix_table3', 'lamix_table4'))
    puzzle = [run.config for run in found.values() if run.config.batch_size == 100]
    assert len(puzzle) == len(found) - 10 == 24
    for one in puzzle:
        tiny = one.target.name == 'tiny_imagenet'
        assert (one.optim.lr, one.optim.nesterov) == (0.2, True) and one.model.name.endswith('_64') == tiny
        assert one.steps == (600_000 if tiny else {'svhn': 439_542}.get(one.target.name, one.steps))
        np.testing.assert_allclose(one.optim.drops, (0.5, 0.75) if tiny else (350 / 600, 500 / 600))
        assert (one.image.crop, one.image.pad) == ((64, 4) if tiny else (32, 2))
        if one.method.name == 'lamix':
            assert (one.method.beta, one.method.mixing) == (1, 'puzzle')
        else:
            assert (one.method.clean, one.method.transport_size) == ((1, -1) if tiny else (0, 4))


# --- the labelled images ----------------------------------------------------------------------------------------------


@functools.cache
def drawn(table: str, argument: str) -> tuple[int, int]:
    """(labelled images, classes) of a cell, by the catalogue's counts."""
    one = config(table, argument)
    sets, _ = assumed.sets(one)
    return len(run_data.draw_seed(one, sets, 0).train), len(sets.train.classes)


@pytest.mark.parametrize(
    ('dataset', 'classes', 'few'), [('cub200', 200, 1000), ('stanford_cars', 196, 1372), ('fgvc_aircraft', 100, 1067)]
)
def test_splits_of_smile_table2(dataset, classes, few):
    entry = {'cub200': 5994, 'stanford_cars': 8144, 'fgvc_aircraft': 6667}[dataset]
    found = {
        split: drawn('smile_table2', f'dataset={dataset},split={split},method=finetune')
        for split in ('c25_n400', 'c25_n800', 'all_15', 'all_100')
    }
    quarter = classes // 4
    assert found['c25_n400'] == (400, quarter) and found['c25_n800'] == (800, quarter)
    assert found['all_100'] == (entry, classes)
    # Each class rounds up; the catalogue's images are taken to be spread evenly.
    assert found['all_15'] == (few, classes)


def test_splits_of_the_other_tables():
    assert drawn('smile_table4', 'method=finetune_add') == (5994, 200)
    assert drawn('smile_table4', 'method=smile') == (1800, 200)
    assert drawn('smile_table3', 'dataset=mit_indoor67,split=50,method=smile') == (2680, 67)
    assert drawn('xmixup_table3', 'dataset=flowers102,method=xmixup_random') == (1020, 102)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_products():
    assert arguments.product(a='12', b=('x', 'y')) == ['a=1,b=x', 'a=1,b=y', 'a=2,b=x', 'a=2,b=y']
    assert arguments.parse('b=y,a=1', a='12', b={'x': 0, 'y': 1}) == {'a': '1', 'b': 'y'}


@pytest.mark.parametrize(
    ('argument', 'sentence'),
    [
        (
            'dataset=cub,split=all_15,method=smile',
            "dataset is one of cub200, stanford_cars, fgvc_aircraft, not 'cub'; did",
        ),
        ('dataset=cub200,split=all_15,methd=smile', "has no 'methd'; did you mean 'method'"),
        ('dataset=cub200,method=smile', "'dataset=cub200,method=smile' does not say split"),
        ('dataset=cub200,dataset=cub200,split=all_15,method=smile', 'each of them once'),
        ('smile', "has no 'smile'"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(argument, sentence):
    with pytest.raises(UserError, match='.*') as caught:
        config('smile_table2', argument)
    assert sentence in str(caught.value) and '\n' not in str(caught.value)


def test_a_grid_of_smoke_forms_loads():
    """Also that of Places365's weights, which are not here."""
    for table in ('smile_table3', 'xmixup_table1'):
        found = grid.runs(f'tables/{table}:smoke', [], 'runs')
        assert all(run.config.steps == 2 for run in found) and len(found) == RUNS[table]
    weights = {run.config.model.weights for run in grid.runs('tables/smile_table3:smoke', [], 'runs')}
    assert weights == {'random://365', 'random://1000'}


# --- what is checked, and what the documentation says -----------------------------------------------------------------


def test_cells_that_differ_in_their_data_share_a_trace():
    a, b, c = (
        config('smile_table2', f'dataset={dataset},split={split},method=rifle')
        for dataset, split in (('cub200', 'all_15'), ('cub200', 'c25_n400'), ('stanford_cars', 'all_15'))
    )
    assert cells.step_of(a) == cells.step_of(b) != cells.step_of(c)  # Cars has four phases
    traces, pairs = cells.traces(), cells.pairs()
    assert (len(traces), len(pairs)) == (103, 56)
    every = cells.every().values()
    assert {cells.step_of(run.config) for run in every} == set(traces)
    assert {cells.pair_of(run.config) for run in every} == set(pairs)
    methods = {(run.config.model.name, run.config.method.name) for run in every}
    assert {(run.config.model.name, run.config.method.name) for run in pairs.values()} == methods and len(methods) == 46


def test_the_page_has_the_numbers_of_this_file():
    page = (ROOT / 'docs/tables.md').read_text()
    for table, count in RUNS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f'| `{table}` |')]
        numbers = 0 if table in papers.UNPRINTED else len(papers.of(table))
        assert row.split(' | ')[2:4] == [str(numbers), str(count)]
        said = {(int(many), other) for many, other in re.findall(r'(\d+) in `(\w+)`', row)}
        shared = {(many, frozenset({a, b} - {table})) for many, a, b in SHARED if table in (a, b)}
        assert all((many, frozenset({other})) in shared for many, other in said)
    assert f'{len(papers.tables())} tables, {len(papers.numbers())} printed numbers, {len(cells.every())} runs' in page
    assert f'({len(cells.traces())} steps)' in page and f'each of the {len(cells.pairs())} pairs' in page
