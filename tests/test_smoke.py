"""Every shipped config runs its `:smoke` form: two steps, made-up images, true classes and heads."""

import json

import pytest

from mixjax import config as config_lib
from mixjax.config import method_registry, variants
from mixjax.main import main
from mixjax.models.net import bind
from mixjax.train import init, seeds, shared
from tests.support.common import final_state

HEADS = {
    'quickstart': {'xmixup': {'joint': 20}, 'smile': {'target': 10, 'source': 160}},
    'glyphs_pretrain': {'': {'target': 160}},
    'lamix_cifar100': {'': {'target': 100, 'global': 100}},
    'xmixup_dogs': {'': {'joint': 240}},
    'smile_cub': {'': {'target': 200, 'source': 1000}},
    'folder': {'': {'target': 10, 'source': 1000}},
    'digits/lamix': {'': {'target': 10, 'global': 10}},
    'digits/grid': {'': {'joint': 20}},
    'digits/tables': {'': {'joint': 20}},
    'digits/unlabelled': {'fixmatch': {'target': 10}, 'selftrain': {'target': 10}},
    'digits/all_methods': {
        'cotuning': {'target': 10, 'source': 160},
        'cotrain': {'target': 10, 'source': 10},
        'seqtrain': {'target': 10},
        'lamix_puzzle': {'target': 10, 'global': 10},
    },
    'digits/later_methods': {'xcutmix': {'joint': 20}, 'probe': {'target': 10}},
}
LONG = (
    'xmixup_dogs', 'smile_cub', 'folder', 'digits/all_methods', 'digits/later_methods', 'glyphs_pretrain', 'quickstart',
    'lamix_cifar100', 'digits/grid', 'digits/lamix', 'digits/tables', 'digits/unlabelled',
)  # fmt: skip


def test_every_config_is_tested():
    # Those of the papers' tables and figures have tests of their own: tests/tables, tests/tables/test_figures.py.
    others = {name for name in config_lib.shipped() if name.startswith(('tables/', 'papers/')) or '_fig' in name}
    assert set(HEADS) == set(config_lib.shipped()) - others


def test_the_tables_have_all_methods():
    tables = [config_lib.load(f'digits/{name}') for name in ('all_methods', 'later_methods', 'unlabelled')]
    named = [{node.name for node in config.compare.values()} for config in tables]
    assert set.union(*named) == set(method_registry.names())
    assert {'finetune'} <= set.intersection(*named) and named[0] & named[1] == {'finetune', 'mixup', 'smile'}
    for config in tables:
        assert config.sweep.key == 'target.per_class' and config.sweep.numbers == (3, 10) and config.num_seeds == 5


@pytest.mark.parametrize('name', [name for name in HEADS if not name.endswith('_methods')])  # their long form is enough
def test_smoke_forms_are_ready_to_train(name, tmp_path, monkeypatch):
    """All that comes before training, with the backbone's features made up: cheap for the large networks too."""
    monkeypatch.setattr(shared, 'view', lambda net, start: (bind(net, start), lambda image: image.mean((1, 2))))
    config = config_lib.load(f'{name}:smoke')
    for label in variants.labels(config) or ['']:
        one = variants.single(config, label) if label else config
        built = seeds.build_and_try(one, tmp_path)
        made = built.prepared[one.seed]
        for head, width in HEADS[name].get(label, {}).items():
            assert init.heads(built.method, len(built.sets.train.classes), 1000, made)[head].width in (width, 1000)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in HEADS]
)
def test_smoke(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # One device, as a person's laptop has: eight would have to be compiled for.
    assert main([f'--config={name}:smoke', '--config.devices=1', '--workdir=run']) == 0
    assert 'report: run/report.html' in capsys.readouterr().out
    for label, heads in HEADS[name].items():
        arrays = final_state(tmp_path / 'run' / label, config_lib.load(f'{name}:smoke').seed, 2)
        biases = {key: array.shape for key, array in arrays.items() if 'params' in key and key.endswith("['bias']")}
        for head, width in heads.items():
            assert [shape for key, shape in biases.items() if f"['heads']['{head}']" in key] == [(width,)]
        results = json.loads((tmp_path / 'run' / label / 'results.json').read_text())
        assert results['steps'] == 2 and 0 <= results['accuracy']['mean'] <= 1
