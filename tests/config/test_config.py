import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax import config as config_lib
from mixjax.config import files as config_files
from mixjax.config import overrides, variants
from mixjax.errors import UserError, nearest
from mixjax.rundir import files
from mixjax.train import experiment, seeds

CONFIGS = ['quickstart', 'glyphs_pretrain', 'xmixup_dogs', 'smile_cub', 'lamix_cifar100']


def test_every_shipped_config_is_known_here_and_says_how_it_is_run():
    assert set(config_lib.shipped()) >= set(CONFIGS)
    for name in config_lib.shipped():
        if name.startswith('papers/'):
            continue  # protocols, which the tables and figures begin with
        text = (config_files.folder() / f'{name}.py').read_text()
        said = text.split('"""')[1]
        assert f'--config=configs/{name}.py' in said or f'mixjax grid configs/{name}.py --list' in said


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('suffix', ['', ':smoke', ':smoke,full'])
def test_shipped_configs_load(name, suffix):
    config = config_lib.load(name + suffix)
    assert config.is_locked
    if suffix:
        assert (config.steps, config.num_seeds, config.batch_size) == (2, 1, 8)
    if suffix == ':smoke':
        assert config.image.crop <= 64


def test_the_papers_settings():
    dogs, cub, cifar = (config_lib.load(name) for name in ('xmixup_dogs', 'smile_cub', 'lamix_cifar100'))
    for config in (dogs, cub):
        assert (config.steps, config.batch_size, config.optim.momentum, config.image.crop) == (9000, 48, 0.9, 224)
        assert config.optim.drops == (2 / 3,) and config.num_seeds == 5
    assert (dogs.optim.lr, cub.optim.lr, cifar.optim.lr) == (0.001, 0.01, 0.1)
    assert dogs.method.min_images == 100_000
    assert (cub.method.alpha, cub.method.feature_weight, cub.method.source_weight) == (0.2, 0.01, 0.1)
    assert (cub.method.ema, cub.method.ema_every, cub.optim.nesterov) == (0.999, 10, True)
    assert (cifar.steps, cifar.batch_size, cifar.method.beta, cifar.optim.nesterov) == (156_250, 128, 0.5, False)
    assert cifar.optim.drops == (0.5, 0.75)


def test_a_file_a_name_and_a_path_of_a_shipped_config_are_the_same(tmp_path, monkeypatch):
    mine = tmp_path / 'mine.py'
    mine.write_text((config_files.folder() / 'quickstart.py').read_text())
    from_file = config_lib.load(str(mine))
    monkeypatch.chdir(tmp_path)
    assert from_file.to_json() == config_lib.load('quickstart').to_json()
    assert from_file.to_json() == config_lib.load('configs/quickstart.py').to_json()


def test_overrides_have_the_type_of_the_setting():
    config = config_lib.load(
        'quickstart',
        [('steps', '12'), ('optim.lr', '1'), ('optim.drops', '0.5,0.9'), ('image.flip', 'true'),
         ('model.dtype', 'bfloat16'), ('compare.smile.alpha', '0.3')],
    )  # fmt: skip
    assert (config.steps, config.optim.lr, config.optim.drops) == (12, 1.0, (0.5, 0.9))
    assert (config.image.flip, config.model.dtype, config.compare.smile.alpha) == (True, 'bfloat16', 0.3)
    assert isinstance(config.optim.lr, float)


def test_another_method_comes_with_its_own_knobs():
    config = config_lib.load('xmixup_dogs', [('method.alpha', '0.3'), ('method.name', 'smile')])
    assert config.method.to_dict() == {
        'name': 'smile', 'alpha': 0.3, 'feature_weight': 0.01, 'source_weight': 0.1,
        'ema': 0.999, 'ema_every': 10, 'feature': 'map',
    }  # fmt: skip
    config = config_lib.load('quickstart', [('method.name', 'smile')])
    assert config.method.name == 'smile' and not config.compare


WRONG = [
    ('optm.lr', '1', "unknown config key 'optm.lr'; did you mean 'optim.lr'"),
    ('optim.lrr', '1', "did you mean 'optim.lr'"),
    ('lr', '1', "unknown config key 'lr'; did you mean"),
    ('optim', '1', 'config.optim is a group; set one of optim.betas, optim.clip, optim.decayed, optim.drops'),
    ('steps', 'ten', "config.steps must be a whole number, not 'ten'"),
    ('steps', '2.5', 'config.steps must be a whole number, not 2.5'),
    ('steps', '-1', 'config.steps must be a whole number of at least 1, not -1'),
    ('steps', '0', 'at least 1'),
    ('steps', '99999999999', 'below 2^32'),
    ('seed', '-1', 'config.seed must be a whole number from 0'),
    ('num_seeds', '0', 'config.num_seeds must be'),
    ('target.rate', '0', 'config.target.rate must be above 0 and at most 1'),
    ('target.rate', '1.5', 'config.target.rate must be above 0 and at most 1'),
    ('target.name', 'digit', "unknown data set 'digit'; did you mean 'digits'"),
    ('source.name', 'glyph', "did you mean 'glyphs'"),
    ('model.name', 'resnet', 'unknown network'),
    ('model.dtype', 'float16', 'config.model.dtype must be one of'),
    ('method.name', 'xmixp', "unknown method 'xmixp'; did you mean 'xmixup'"),
    ('method.alfa', '1', 'config.method.alfa has no effect: this config compares'),
    ('optim.lr', 'nan', 'config.optim.lr must be'),
    ('optim.lr', '0', 'config.optim.lr must be a number above 0'),
    ('optim.momentum', '1', 'config.optim.momentum must be'),
    ('optim.drops', '0.9,0.5', 'rising shares'),
    ('optim.drops', 'late', 'numbers separated by commas'),
    ('optim.schedule', 'linaer', "constant, linear, one_cycle, not 'linaer'; did you mean 'linear'"),
    ('optim.name', 'adamv', "one of sgd, adam, amsgrad, adamw, lion, muon, not 'adamv'; did you mean 'adam"),
    ('optim.name', 'nothing', 'config.optim.name must be one of .*, not .nothing.$'),
    ('optim.betas', '0.9', 'config.optim.betas must be two numbers of at least 0'),
    ('optim.warmup', '-0.1', 'config.optim.warmup must be a share of the steps up to 1, or a whole number'),
    ('optim.warmup', '1.5', 'config.optim.warmup must be a share of the steps up to 1, or a whole number'),
    ('optim.warmup', 'nan', 'config.optim.warmup must be a'),
    ('optim.warmup', '1e20', 'config.optim.warmup must be a share of the steps up to 1, or a whole number'),
    ('optim.warmup', '100000', 'config.optim.warmup=100000 steps are more than config.steps='),
    ('optim.clip', '-1', 'config.optim.clip must be a number of at least 0'),
    ('optim.clip', 'inf', 'config.optim.clip must be'),
    ('optim.layer_decay', '0', 'config.optim.layer_decay must be above 0 and at most 1'),
    ('optim.layer_decay', '1.1', 'config.optim.layer_decay must be above 0 and at most 1'),
    ('optim.layer_decay', 'nan', 'config.optim.layer_decay must be'),
    ('optim.decayed', 'matrix', "optim.decayed must be one of all, matrices, or '' for .*did you mean 'matrices'"),
    ('image.flip', 'maybe', 'true or false'),
    ('image.resize', '8', 'larger than the stored images'),
    ('image.interpolation', 'lanczos', 'one of bilinear, bicubic'),
    ('image.fit', 'long', 'one of short, squash'),
    ('model.head', 'drop', 'one of source, keep, reset'),
    ('model.init', 'torchh', 'one of torch, kaiming, flax'),
    ('image.std', '0', 'config.image.std must be'),
    ('mix.groups', '5', 'must divide config.batch_size'),
    ('target.rate', '0.5', 'config.target.per_class and config.target.rate both say how many'),
    ('method.name', '.smile', 'is not the name of a method'),
    ('steps', '{[]:1}', 'must be a whole number'),
    ('baseline', 'nothing', 'config.baseline is one of'),
    ('compare.smile.alpha', '-1', 'config.compare.smile: alpha must be above 0'),
    ('compare.smile.alpah', '1', 'unknown config key'),
]


@pytest.mark.parametrize(('key', 'value', 'sentence'), WRONG, ids=[f'{k}={v}' for k, v, _ in WRONG])
def test_wrong_settings_end_in_one_sentence(key, value, sentence):
    with pytest.raises(UserError, match=sentence.replace('^', r'\^')) as error:
        config_lib.load('quickstart', [(key, value)])
    assert '\n' not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from(sorted(overrides.keys(config_lib.complete(config_lib.base())))),
    value=st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.lists(st.floats(), max_size=3).map(str)).map(
        str
    ),
)
def test_any_value_is_accepted_or_refused_with_its_key(key, value):
    try:
        config_lib.load('quickstart', [(key, value)])
    except UserError as error:
        assert 1 < len(str(error)) < 2000


START = 'def get_config():\n  from mixjax.config import base\n  c = base()\n'
BAD_FILES = {
    'x = (': 'could not be read: SyntaxError',
    'import nothing_of_that_name': 'could not be read: ModuleNotFoundError',
    'x = 1': 'could not be read: AttributeError',
    'def get_config(): return nothing': 'NameError',
    'def get_config():\n  from ml_collections import ConfigDict\n  return ConfigDict()': 'config.method is missing',
    'def get_config(): return 1': 'must return an ml_collections.ConfigDict',
    START + '  c.stepps = 1\n  return c': "'stepps'; did you mean",
    START + '  c.steps = 1.5\n  return c': 'steps',
    START + "  c.method = {'name': 'mixup', 'beta': 1}\n  return c": "has no knob 'beta'",
    START + "  c.compare = {'a/x': {'name': 'mixup'}}\n  return c": 'names a folder',
}


@pytest.mark.parametrize('text', BAD_FILES)
def test_bad_config_files(text, tmp_path):
    (tmp_path / 'bad.py').write_text(text)
    with pytest.raises(UserError, match=BAD_FILES[text]):
        config_lib.load(str(tmp_path / 'bad.py'))


def test_missing_and_misspelt_configs():
    with pytest.raises(UserError, match="there is no config 'quikstart'; did you mean 'quickstart'"):
        config_lib.load('quikstart')
    with pytest.raises(UserError, match='takes no argument'):
        config_lib.load('quickstart:dataset=cub')
    with pytest.raises(UserError, match='goes with'):
        config_lib.load('quickstart:full')


@pytest.mark.parametrize(
    ('group', 'key', 'value'), [('optim', 'lr', 10**400), ('optim', 'lr', 'x'), ('target', 'per_class', [])]
)
def test_a_stored_config_that_cannot_be_ours(group, key, value):
    data = config_lib.load('quickstart').to_dict()
    assert config_lib.from_data(data).to_dict() == data
    data[group][key] = value
    with pytest.raises(UserError, match='another version of mixjax'):
        config_lib.from_data(data)


def test_nearest():
    assert nearest('leraning', ['learning', 'x']) == "; did you mean 'learning'?"
    assert nearest('zzz', ['learning']) == ''


# --- one method, or several ---


def test_method_set_beside_a_comparison_is_not_ignored(tmp_path):
    """In Python as on the command line; also the method that a config has anyway."""
    for name in ('smile', 'finetune'):
        config = config_lib.load('quickstart')
        config.method.name = name
        with pytest.raises(UserError, match=rf'config.method \({name}\) and config.compare \(finetune, .* both say'):
            experiment.run(config, tmp_path / 'run', progress=False)
        config.compare = {}
        alone = config_lib.complete(config)
        asked = config_lib.load('quickstart', [('method.name', name)])
        assert alone.to_json(sort_keys=True) == asked.to_json(sort_keys=True) and not alone.compare
    assert not (tmp_path / 'run').exists()
    config = config_lib.load('smile_cub:smoke')
    config.compare = {'a': {'name': 'mixup'}}
    with pytest.raises(UserError, match='both say what is trained'):
        config_lib.complete(config)
    config.method = {'name': ''}
    assert variants.labels(config_lib.complete(config)) == ['a']


def test_a_file_that_names_a_method_and_compares_is_refused(tmp_path):
    text = "  c.method = {'name': 'smile'}\n  c.compare = {'one': {'name': 'mixup'}}\n  return c"
    (tmp_path / 'both.py').write_text(START + text)
    with pytest.raises(UserError, match='both say what is trained'):
        config_lib.load(str(tmp_path / 'both.py'))
    assert config_lib.load(str(tmp_path / 'both.py'), [('method.name', 'mixup')]).method.name == 'mixup'


def test_without_a_name_it_is_finetune_and_a_comparison_trains_what_it_compares():
    config = config_lib.base()
    assert config_lib.complete(config).method.to_dict() == {'name': 'finetune'}
    config = config_lib.base()
    config.compare = {'one': {'name': 'mixup'}}
    assert list(config_lib.methods(config_lib.complete(config))) == ['compare.one']
    with pytest.raises(UserError, match='config.method.name must be the name of a method'):
        config_lib.load('quickstart', [('method.name', '')])


def test_a_comparison_of_an_earlier_version_is_read_and_goes_on(tmp_path):
    """It named finetune beside what it compared."""
    config = config_lib.load('quickstart')
    data = files.to_data(config)
    data['method']['name'] = 'finetune'
    files.write_json(tmp_path / 'config.json', data)
    assert config_lib.from_data(data).to_json(sort_keys=True) == config.to_json(sort_keys=True)
    assert files.check_folder(tmp_path, config) is False
    with config.unlocked():
        config.optim.lr = 0.5
    with pytest.raises(UserError, match='optim.lr: 0.01 there, 0.5 now'):
        files.check_folder(tmp_path, config)


def test_one_cycle_has_its_own_warmup():
    words = [('optim.schedule', 'one_cycle'), ('optim.warmup', '0.1')]
    with pytest.raises(UserError, match=r'^config.optim.warmup=0.1: .*one_cycle begins with a warm-up of its own; set'):
        config_lib.load('quickstart', words)
    assert config_lib.load('quickstart', words[:1]).optim.warmup == 0


def test_trial_of_a_config_shortens_its_warmup(tmp_path):
    (tmp_path / 'long.py').write_text(START + '  c.optim.warmup = 500\n  return c')
    assert config_lib.load(str(tmp_path / 'long.py')).optim.warmup == 500
    assert config_lib.load(f'{tmp_path}/long.py:smoke').optim.warmup == 1  # all of its two steps


# --- settings that would train nothing ---


@pytest.mark.parametrize(
    ('key', 'value', 'sentence'),
    [
        ('optim.lr', '1e-46', 'config.optim.lr must be a number above 0 .*1.2e-38'),
        ('optim.lr', '1e-39', 'config.optim.lr must be a number above 0 .*1.2e-38'),
        ('optim.eps', '1e-46', 'config.optim.eps must be a number above 0'),
        ('optim.weight_decay', '1e-46', 'config.optim.weight_decay must be a number of at least 0'),
        ('optim.momentum', '0.99999999999', 'config.optim.momentum must be at least 0 and below 1'),
        ('optim.betas', '0.9,0.999999999999', 'config.optim.betas must be two numbers'),
        ('optim.factor', '1e-37', 'after 1 drops by config.optim.factor=1e-37, which is not a valid learning rate'),
        ('optim.factor', '1e38', 'is 1e.36 after 1 drops|which is not a valid learning rate'),
        ('optim.factors', 'trunk=1e999', 'config.optim.factors must be words like trunk=0.1'),
        ('optim.factors', 'trunk=1e-999', 'config.optim.factors must be words like trunk=0.1'),
        ('optim.factors', 'trunk=1e-37', 'trunk learns at 0.01 .* times 1e-37, which is not a valid learning rate'),
        ('optim.factors', 'trunk=nan', 'config.optim.factors must be words like trunk=0.1'),
        ('sweep.numbers', '0.1,1e-46', 'config.sweep.numbers: optim.lr must be a number above 0'),
    ],
)
def test_learning_rate_that_is_zero_in_float32_is_refused(key, value, sentence):
    more = [('sweep.key', 'optim.lr')] if key == 'sweep.numbers' else []
    drops = [('optim.schedule', 'step'), ('optim.drops', '0.5,0.6')]
    with pytest.raises(UserError, match=sentence):
        config_lib.load('quickstart', [*more, *drops, (key, value)])


@pytest.mark.parametrize(
    ('method', 'changes', 'sentence'),
    [
        ('finetune', {'freeze': 'trunk,heads'}, '^config.optim.freeze=trunk,heads leaves nothing to train; let a part'),
        ('finetune', {'freeze': 'stem,stage1,stage2,stage3,head:target'}, 'leaves nothing to train'),
        ('finetune', {'factors': 'trunk=0,heads=0'}, '^config.optim.factors=trunk=0,heads=0 leaves nothing to train'),
        ('finetune', {'freeze': 'trunk', 'factors': 'heads=0.0'}, 'leave nothing to train;'),
        ('feature_extraction', {'freeze': 'heads'}, 'nothing to train, together with what the method freezes'),
        ('finetune', {'freeze': 'trunk'}, ''),
        ('finetune', {'freeze': 'heads', 'factors': 'stem=0,stage1=0'}, ''),
    ],
)
def test_a_run_in_which_nothing_learns_is_refused(method, changes, sentence, tmp_path):
    config = config_lib.load('quickstart', [('method.name', method), *((f'optim.{k}', v) for k, v in changes.items())])
    if sentence:
        with pytest.raises(UserError, match=sentence):
            experiment.run(config, tmp_path / 'run', progress=False)
        assert not (tmp_path / 'run').exists()
    else:
        seeds.build_and_try(config, tmp_path)
