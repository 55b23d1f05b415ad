"""A config for every figure of the papers, and its form on the embedded benchmark."""

import pytest

from mixjax import config as config_lib
from mixjax.commands import analyse, grid
from mixjax.config import cells
from mixjax.errors import UserError
from mixjax.main import main
from mixjax.rundir import files

FIGURES = ['smile_fig1', 'xmixup_fig2', 'xmixup_fig3', 'xmixup_fig4', *(f'lamix_fig{n}' for n in range(2, 9))]
# What a figure trains: (methods, steps, seeds), and what it measures.
SIZES = {
    'smile_fig1': (2, 9000, 5, ''),
    'xmixup_fig2': (2, 9000, 5, 'spectrum'),
    'xmixup_fig3': (10, 9000, 5, 'sweep'),
    'xmixup_fig4': (11, 9000, 5, 'sweep'),
    'lamix_fig2': (0, 156_250, 1, 'targets'),
    'lamix_fig3': (0, 156_250, 1, 'targets'),
    'lamix_fig4': (9, 156_250, 5, 'sweep'),
    'lamix_fig5': (3, 781_250, 1, 'curves'),
    'lamix_fig6': (10, 156_250, 5, 'sweep'),
    'lamix_fig7': (3, 156_250, 1, 'cam'),
    'lamix_fig8': (0, 390_625, 1, 'plane'),
}
LIKE_OTHERS = ('xmixup_fig4', 'lamix_fig3', 'lamix_fig4', 'lamix_fig6')  # train and measure as others do
DATA = {
    'smile_fig1': ('cub200', 'stanford_cars'),
    'lamix_fig2': ('cifar100', 'cifar10'),
    **{f'xmixup_fig{n}': ('cub200', 'fgvc_aircraft', 'stanford_dogs') for n in (2, 3, 4)},
}


def test_each_figure_has_a_config_and_a_form_on_the_digits():
    shipped = config_lib.shipped()
    assert sorted(name.removeprefix('figures/') for name in shipped if name.startswith('figures/')) == sorted(FIGURES)
    assert {f'digits/{name}' for name in FIGURES} <= set(shipped)


@pytest.mark.parametrize('name', FIGURES)
def test_a_figure_says_what_it_trains_and_measures(name):
    methods, steps, seeds, what = SIZES[name]
    for data in DATA.get(name, ('',)):
        config = config_lib.load(f'figures/{name}:{f"data={data}" if data else ""}')
        assert (len(config.compare), config.steps, config.num_seeds) == (methods, steps, seeds)
        assert config.target.name == (data or config.target.name)
        if what:
            assert analyse.of_config(config.analyse, 'run')['what'] == (what,)
    twin = config_lib.load(f'digits/{name}')
    assert twin.target.name == 'digits' and twin.model.name.startswith('glyphnet')
    assert (analyse.of_config(twin.analyse, 'run')['what'] if twin.analyse else ('',)) == (what,)
    if methods:
        kinds = {node['name'] for node in config.compare.values()}
        assert kinds == {node['name'] for node in twin.compare.values()}


def test_sweeps_have_the_numbers_of_the_papers():
    alphas = [2.0**k for k in range(-3, 7)]
    for name in ('figures/xmixup_fig4:data=stanford_dogs', 'figures/xmixup_fig4', 'digits/xmixup_fig4'):
        nodes = config_lib.load(name).compare.values()
        assert sorted(node.alpha for node in nodes if node.name == 'xmixup') == alphas
    tenths = [k / 10 for k in range(1, 10)]
    for place in ('figures', 'digits'):
        assert [node.beta for node in config_lib.load(f'{place}/lamix_fig4').compare.values()] == tenths
        smoothed = config_lib.load(f'{place}/lamix_fig6').compare.values()
        assert [node.epsilon for node in smoothed if node.name == 'label_smoothing'] == tenths
    assert config_lib.load('figures/xmixup_fig2').sweep.numbers == (0.1, 0.3, 0.5, 1.0)
    assert config_lib.load('figures/lamix_fig8').snapshots == (0.1, 0.4, 0.7, 1.0)


# The protocol of a figure's paper on its data, and what the figure has of its own.
PROTOCOLS = {
    'smile_fig1': ('smile', 'method=finetune', {'target.classes': 50.0}),
    'xmixup_fig2': ('xmixup', 'method=xmixup', {'sweep.key': 'target.rate', 'sweep.numbers': (0.1, 0.3, 0.5, 1.0)}),
    'xmixup_fig3': ('xmixup', 'method=xmixup', {}),
    'xmixup_fig4': ('xmixup', 'method=xmixup', {}),
    'lamix_fig2': ('lamix', 'network=preactresnet18,method=lamix', {'snapshots': (0.25, 0.5, 0.75, 1.0)}),
    'lamix_fig3': ('lamix', 'network=preactresnet18,method=lamix', {'snapshots': tuple(k / 20 for k in range(1, 21))}),
    'lamix_fig4': ('lamix', 'network=preactresnet18,method=lamix', {}),
    'lamix_fig5': ('lamix', 'network=preactresnet18,method=lamix', {'steps': 781_250}),
    'lamix_fig6': ('lamix', 'network=preactresnet18,method=lamix', {}),
    'lamix_fig7': ('lamix', 'network=preactresnet18,method=lamix', {}),
    'lamix_fig8': (
        *('lamix', 'network=preactresnet18,method=lamix'),
        {'steps': 390_625, 'snapshots': (0.1, 0.4, 0.7, 1.0), 'model.name': 'preactresnet18_plane'},
    ),
}
OWN = ('analyse', 'baseline', 'compare', 'method', 'num_seeds')  # what a figure is, and not its protocol


@pytest.mark.parametrize('name', FIGURES)
def test_a_figure_has_the_protocol_of_its_papers_tables(name):
    protocol, cell, own = PROTOCOLS[name]
    for data in DATA.get(name, ('',)):
        config = config_lib.load(f'figures/{name}:{f"data={data}" if data else ""}')
        with config.unlocked():
            for key in OWN:
                del config[key]
        wanted = config_lib.load(f'papers/{protocol}:dataset={config.target.name},{cell}')
        wanted = files.flatten(files.to_data(wanted)) | {key: _as_json(value) for key, value in own.items()}
        found = files.flatten(files.to_data(config))
        assert found == {key: value for key, value in wanted.items() if key.partition('.')[0] not in OWN}, data


def _as_json(value):
    return list(value) if isinstance(value, tuple) else value


def test_fig_1_of_smile_has_the_mixup_of_its_tables_and_the_two_starts():
    for data in DATA['smile_fig1']:
        config = config_lib.load(f'figures/smile_fig1:data={data}')
        table = config_lib.load(f'papers/smile:dataset={data},method=mixup')
        assert config.compare.mixup == table.method and config.image.fit == table.image.fit
        assert config.image.fit == {'cub200': 'short', 'stanford_cars': 'squash'}[data]
        scratch = config_lib.load(f'figures/smile_fig1:data={data},start=scratch')
        assert (config.model.weights, scratch.model.weights) == (table.model.weights, '')


def test_fig_3_of_xmixup_ends_with_the_whole_source():
    for data in DATA['xmixup_fig3']:
        nodes = config_lib.load(f'figures/xmixup_fig3:data={data}').compare
        assert [label for label, node in nodes.items() if node.get('auxiliary') == 'all'] == ['all']
    assert config_lib.load('digits/xmixup_fig3').compare['all'].auxiliary == 'all'


def test_grids_list_their_cells():
    assert len(grid.runs('configs/figures/smile_fig1.py', [], 'runs')) == 4
    assert len(grid.runs('configs/digits/smile_fig1.py', [], 'runs')) == 2


def test_arguments_are_checked():
    assert cells.choose('b=y', a=('1', '2'), b=('x', 'y')) == {'a': '1', 'b': 'y'}
    with pytest.raises(UserError, match="has no 'c'"):
        cells.choose('c=1', a=('1',), b=('x',))
    with pytest.raises(UserError, match="data is one of cub200, .*, not 'cub'"):
        config_lib.load('figures/xmixup_fig4:data=cub')


@pytest.mark.slow
@pytest.mark.parametrize('name', [f'digits/{name}' for name in FIGURES if name not in LIKE_OTHERS])
def test_the_smoke_form_trains_and_measures(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([f'--config={name}:smoke', '--config.devices=1', '--workdir=run']) == 0
    shown = capsys.readouterr()
    assert 'report: run/report.html' in shown.out
    what = SIZES[name.removeprefix('digits/')][3]
    if what:
        assert list((tmp_path / 'run').rglob('analysis.json')), shown.err
