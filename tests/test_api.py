"""The front door in Python: results, data and methods that are given, predictions, networks, and their types."""

import functools
import importlib
import io
import json
import re
import typing

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import mixjax
from mixjax import losses
from mixjax.api import Results
from mixjax.commands import cli
from mixjax.config import defaults, method_registry
from mixjax.data.dataset import Dataset
from mixjax.errors import UserError
from mixjax.method import Aux, Head, Method
from mixjax.rundir import code_digest
from tests.support import tiny_config  # noqa: F401 (it registers the network `tiny`)
from tests.support.common import ROOT

CLASSES = ('dark', 'bright')


def pictures(count=40, seed=0, side=16):
    """Grey noise, and its labels: the brighter half is class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    noise = rng.integers(0, 100, (count, side, side), np.uint8)
    return noise + (120 * labels[:, None, None]).astype(np.uint8), labels


def data(seed=0, name='images', **more):
    return Dataset.from_arrays(*pictures(seed=seed, **more), CLASSES, name=name)


def settings(**more):
    """Two small convolutions from scratch, four steps."""
    config = mixjax.config.base()
    config.model.name = 'tiny'
    config.image.resize = config.image.crop = 16
    config.image.mean = config.image.std = (0.5,)
    config.optim.lr, config.steps, config.batch_size = 0.02, 4, 8
    config.eval_every = config.checkpoint_every = 2
    config.update(more)
    return config


def letters(**more):
    """The network that knows printed letters, four steps."""
    config = settings(**more)
    config.model.name, config.model.weights = 'glyphnet', 'embedded://glyphnet'
    config.image = mixjax.config.base().image
    return config


def two_heads(classes_t, *, share: float = 0.5):
    """A method whose prediction needs both of its heads."""

    def logits(out):
        return jax.nn.log_softmax(out.logits['one']) * share + jax.nn.log_softmax(out.logits['two']) * (1 - share)

    def loss(net, params, ctx):
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        return losses.cross_entropy(logits(out), ctx.batch['label']).mean(), Aux(model_state)

    return Method(loss, heads=lambda t, s, prepared: {'one': Head(t), 'two': Head(t)}, predict=logits)


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp('single') / 'run'
    results = mixjax.train.run(letters(num_seeds=2), folder, target=data(), test=data(1), progress=False)
    return folder, results


@pytest.fixture(scope='module')
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp('several') / 'run'
    methods = {'plain': 'finetune', 'mine': two_heads}
    return folder, mixjax.train.run(settings(), folder, target=data(), method=methods, progress=False)


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_are_the_dict_of_the_file_with_attributes(single):
    folder, results = single
    written = json.loads((folder / 'results.json').read_text())
    assert results == written and json.loads(json.dumps(results)) == written
    assert results.kind == 'run' and results.workdir == folder
    assert results.accuracy[:3] == tuple(written['accuracy'].values())
    assert results.accuracy.per_seed == tuple(seed['accuracy'] for seed in written['seeds'])
    assert results.accuracy.n == 2 and results.accuracy.std is not None
    assert list(results.runs) == ['finetune'] and results.runs['finetune'] is results
    again = Results.read(folder)
    assert again == results and again.accuracy == results.accuracy


def test_results_give_the_model_and_the_report(single):
    folder, results = single
    image, _ = pictures(2)
    want = mixjax.load(folder).probabilities([image[0]])
    for model in (results.model(), results.model('finetune'), results.runs['finetune'].model()):
        np.testing.assert_array_equal(model.probabilities([image[0]]), want)
    assert results.report() == folder / 'report.html' and 'finetune' in results.report().read_text()
    with pytest.raises(UserError, match="there is no run 'finetun'; did you mean 'finetune'"):
        results.model('finetun')


def test_the_same_call_gives_the_same_results(single):
    folder, results = single
    again = mixjax.train.run(letters(num_seeds=2), folder, target=data(), test=data(1), progress=False)
    assert again == results


def test_results_of_a_comparison(several):
    folder, results = several
    assert results.kind == 'comparison' and list(results.runs) == ['mine', 'plain']
    for label, one in results.runs.items():
        assert one == json.loads((folder / label / 'results.json').read_text())
        assert one.workdir == folder / label and one.kind == 'run' and 0 <= one.accuracy.mean <= 1
    with pytest.raises(UserError, match=r"a comparison itself has no accuracy.*runs\['mine'\].*mine, plain"):
        _ = results.accuracy
    with pytest.raises(UserError, match='say which run of the comparison; the runs are mine, plain'):
        results.model()
    assert results.model('mine').classes == results.runs['plain'].model().classes == CLASSES


def test_results_of_a_sweep(tmp_path):
    run = {'kind': 'run', 'label': 'a', 'method': 'a', 'seeds': [{'accuracy': 1.0}]}
    run['accuracy'] = {'mean': 1.0, 'std': None, 'n': 1}
    inside = {'kind': 'comparison', 'baseline': 'a', 'runs': {'a': run, 'b': run}}
    results = Results({'kind': 'sweep', 'key': 'optim.lr', 'runs': {'lr=0.1': inside, 'lr=1': inside}}, tmp_path)
    assert results.runs['lr=1'].runs['b'].workdir == tmp_path / 'lr=1' / 'b'
    assert results.runs['lr=1'].runs['b'].accuracy == (1.0, None, 1, (1.0,))
    with pytest.raises(UserError, match='a sweep itself has no accuracy'):
        _ = results.accuracy
    with pytest.raises(UserError, match='say which run of the comparison'):
        results.model('lr=1')


@pytest.mark.parametrize('text', ['{}', '[]', '{"kind": "other"}'])
def test_results_that_are_none_are_refused(text, tmp_path):
    with pytest.raises(UserError, match='has no results.json'):
        Results.read(tmp_path)
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(UserError, match='was not written by mixjax'):
        Results.read(tmp_path)


# --- data that are given ----------------------------------------------------------------------------------------------


def test_other_data_are_another_run(single):
    folder, _ = single
    config = letters(num_seeds=2)
    for given, sentence in (
        ({'target': data(2), 'test': data(1)}, 'images of the train part of the target data set have changed'),
        ({'target': data(), 'test': data(2)}, 'images of the test part of the target data set have changed'),
        ({'target': data(name='others'), 'test': data(1)}, 'target.name'),
    ):
        config.steps = 6  # or nothing is read
        with pytest.raises(UserError, match=sentence):
            mixjax.train.run(config, folder, progress=False, **given)
    with pytest.raises(UserError, match="the data set 'images' was given in Python.*give it again"):
        mixjax.train.run(mixjax.config.from_data(json.loads((folder / 'config.json').read_text())), folder)
    digests = json.loads((folder / 'inputs.json').read_text())['target']
    assert digests.keys() == {'train', 'test'} and len(set(digests.values())) == 2


def test_a_changed_array_is_other_data(tmp_path):
    images, labels = pictures()
    given = Dataset.from_arrays(images, labels, CLASSES)
    mixjax.train.run(settings(steps=1), tmp_path / 'run', target=given, progress=False)
    images[3, 2, 1] += 1
    with pytest.raises(UserError, match='have changed'):
        mixjax.train.run(settings(steps=2), tmp_path / 'run', target=given, progress=False)


def put(folder, count=12):
    """A folder of photographs, a folder for each class."""
    images, labels = pictures(count, side=20)
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / CLASSES[label] / f'{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_a_folder_that_is_given_is_the_folder_of_a_config(tmp_path):
    given = Dataset.from_folder(put(tmp_path / 'photos'))
    assert given.classes == ('bright', 'dark') and len(given.labels) == 12 and given.ids[0] == 'bright/1.png'
    named = settings()
    named.target.name, named.target.dir = 'folder', str(tmp_path / 'photos')
    one = mixjax.train.run(settings(), tmp_path / 'given', target=given, progress=False)
    two = mixjax.train.run(named, tmp_path / 'named', progress=False)
    assert one == two and one['test_examples'] == 2
    for name in ('model.safetensors', 'metrics.jsonl'):
        assert (tmp_path / 'given' / name).read_bytes() == (tmp_path / 'named' / name).read_bytes()
    digests = [json.loads((tmp_path / name / 'inputs.json').read_text())['target'] for name in ('given', 'named')]
    assert digests[0] == digests[1]
    with pytest.raises(UserError, match="no images of a part 'test'; it has train"):
        Dataset.from_folder(tmp_path / 'photos', 'test')


def test_images_of_all_kinds_are_the_same_images():
    images, labels = pictures(4)
    want = data(count=4).read(np.arange(4))
    np.testing.assert_array_equal(want, images[..., None])
    for kind in (images / 255, list(images), [Image.fromarray(image) for image in images], images[..., None]):
        np.testing.assert_array_equal(Dataset.from_arrays(kind, labels, CLASSES).read(np.arange(4)), want)
    colour = np.repeat(images[0][..., None], 3, axis=-1)
    mixed = Dataset.from_arrays([images[0], colour, images[1, :8], images[2]], labels, CLASSES)
    assert mixed.read(np.arange(4)).shape == (4, 256, 256, 3)


def test_a_reader_of_ones_own_is_resized_and_digested(tmp_path):
    images, labels = pictures(side=24)
    asked = []

    def read(rows):
        asked.extend(rows)
        return images[rows][..., None]

    own = Dataset('mine', CLASSES, labels, read)
    found = mixjax.train.run(settings(), tmp_path / 'own', target=own, progress=False)
    held = mixjax.train.run(
        settings(), tmp_path / 'arrays', target=Dataset.from_arrays(images, labels, CLASSES), progress=False
    )
    assert found == held and set(asked) == set(range(40))
    assert found['test_examples'] == 8
    images[:] = 0
    with pytest.raises(UserError, match='have changed|none can be held out'):
        mixjax.train.run(settings(steps=6), tmp_path / 'own', target=own, progress=False)


def test_without_a_held_out_share_the_rest_is_tested_on(tmp_path):
    config = settings()
    config.target.holdout, config.target.per_class = 0.0, 3
    results = mixjax.train.run(config, tmp_path / 'run', target=data(), progress=False)
    assert (results['train_examples'], results['test_examples']) == (6, 34)


def test_a_source_that_is_given(tmp_path):
    config = letters()
    with pytest.raises(UserError, match='two of the data sets are called'):
        mixjax.train.run(config, tmp_path / 'run', target=data(), source=data(1), progress=False)
    with pytest.raises(UserError, match='160 classes that are not the 2 of the source'):
        mixjax.train.run(config, tmp_path / 'run', target=data(), source=data(1, name='other'), progress=False)
    config = settings()
    config.model.weights = 'random://2'
    config.source.name = 'glyphs'
    mixjax.train.run(config, tmp_path / 'run', target=data(), source=data(1, name='other'), progress=False)
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['source']['name'] == 'given:other'
    assert json.loads((tmp_path / 'run' / 'inputs.json').read_text())['source'].startswith('other ')


@pytest.mark.parametrize(
    ('make', 'sentence'),
    [
        (lambda x, y: Dataset.from_arrays(x, y[:-1], CLASSES), r'one label for each of the 8 images, .* \(7,\)'),
        (lambda x, y: Dataset.from_arrays(x, y + 1, CLASSES), 'labels must be from 0 to 1.* from 1 to 2'),
        (lambda x, y: Dataset.from_arrays(x, y / 2, CLASSES), 'whole numbers'),
        (lambda x, y: Dataset.from_arrays(x, y, ['a', 'a']), 'two different names'),
        (lambda x, y: Dataset.from_arrays(x.astype(int), y, CLASSES), 'not int64'),
        (lambda x, y: Dataset.from_arrays(x * 1.0, y, CLASSES), 'floats must be from 0 to 1'),
        (lambda x, y: Dataset.from_arrays(x[:0], y[:0], CLASSES), 'none were given'),
        (lambda x, y: Dataset.from_arrays(x, y, CLASSES, name='a\nb'), 'printable'),
    ],
)
def test_data_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make(*pictures(8))


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    def run(**given):
        mixjax.train.run(settings(), tmp_path / 'run', progress=False, **given)

    images, labels = pictures(8)
    with pytest.raises(UserError, match='data must be a mixjax.Dataset, not ndarray'):
        run(target=images)
    with pytest.raises(UserError, match='has no image of x'):
        run(target=Dataset.from_arrays(images, labels, [*CLASSES, 'x']))
    with pytest.raises(UserError, match='must have the classes of the target'):
        run(target=data(), test=Dataset.from_arrays(images, labels, CLASSES[::-1]))
    with pytest.raises(UserError, match='test= goes with target='):
        run(test=data())
    assert not (tmp_path / 'run').exists()


# --- methods that are given -------------------------------------------------------------------------------------------


def test_a_function_is_asked_for_where_it_is_needed(several, tmp_path, capsys):
    folder, results = several
    assert results.runs['mine']['method'] == 'two_heads'
    image = pictures(2)[0][1]
    with pytest.raises(
        UserError, match=r"'two_heads' of .*model.json was given in Python .* mixjax.load\(workdir, met"
    ):
        mixjax.load(folder / 'mine')
    Image.fromarray(image).save(tmp_path / 'image.png')
    assert cli.run('predict', [f'--workdir={folder / "mine"}', str(tmp_path / 'image.png')]) == 2
    assert 'give it again, in mixjax.load(workdir, method=make)' in capsys.readouterr().err
    want = results.model('mine')(image)
    assert mixjax.load(folder / 'mine', method=two_heads)(image) == want and len(want) == 2
    with pytest.raises(UserError, match='the method finetune, which needs no method='):
        mixjax.load(folder / 'plain', method=two_heads)
    with pytest.raises(UserError, match='a method is a name or a function'):
        mixjax.load(folder / 'mine', method=3)
    with pytest.raises(UserError, match="'two_heads' of config.json was given in Python"):
        mixjax.config.from_data(json.loads((folder / 'mine' / 'config.json').read_text()))


def test_the_settings_of_a_function_are_its_keyword_arguments(tmp_path):
    def stored():
        return json.loads((tmp_path / 'run' / 'config.json').read_text())['method']

    def run(make, **more):
        return mixjax.train.run(settings(**more), tmp_path / 'run', target=data(), method=make, progress=False)

    run(functools.partial(two_heads, share=0.25))
    assert stored() == {'name': 'given:two_heads', 'share': 0.25}
    assert run(two_heads, method=ConfigDict({'name': '', 'share': 0.25})).kind == 'run'
    with pytest.raises(UserError, match='method.share: 0.25 there, 0.5 now'):
        run(two_heads)
    with pytest.raises(UserError, match="has no knob 'shar'"):
        run(two_heads, method=ConfigDict({'name': '', 'shar': 0.25}))


def test_a_changed_function_is_another_run(tmp_path):
    def run(make, **more):
        return mixjax.train.run(settings(), tmp_path / 'run', target=data(), method=make, progress=False, **more)

    def made(weight):
        def mine(classes_t, *, smoothing: float = 0.1):
            def loss(net, params, ctx):
                out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
                return weight * losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

            return Method(loss)

        return mine

    results = run(made(1.0))
    assert run(made(1.0)) == results
    code = json.loads((tmp_path / 'run' / 'inputs.json').read_text())['code']
    assert code['given:mine'].startswith('bytecode of Python')
    with pytest.raises(UserError, match='the function of the method mine, or what it uses, has changed'):
        run(made(2.0))
    assert run(made(2.0), changed_code='accept') == results
    # One head is all that prediction needs, so the function is not.
    assert mixjax.load(tmp_path / 'run').classes == CLASSES


def function(source, name='make', **variables):
    """A function as a cell of a notebook makes it."""
    exec(source, variables)  # noqa: S102
    return variables[name]


def test_the_digest_of_a_function_is_of_all_that_it_uses():
    def digest(source, **variables):
        return code_digest.of_function('x', function(source, **variables))['x']

    source = 'def half(x):\n    return x / 2\n\ndef make(c, *, a=1):\n    return half(c) + rate + a\n'
    want = digest(source, rate=1.0)
    assert digest('\n\n# a comment\n' + source, rate=1.0) == want
    assert digest(source, rate=1.0, other=3) == want
    assert digest(source, rate=2.0) != want
    assert digest(source.replace('/ 2', '/ 3'), rate=1.0) != want
    assert digest(source.replace('a=1', 'a=2'), rate=1.0) != want
    inner = 'def make(c):\n    class A:\n        def f(self):\n            return rate\n    return A\n'
    assert digest(inner, rate=1) != digest(inner, rate=2)
    cyclic = 'def a(n):\n    return make(n)\n\ndef make(n):\n    return a(n)\n'
    assert digest(cyclic) == digest(cyclic)


def test_the_digest_of_a_function_is_of_modules_of_ones_own_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'helper_of_mine.py').write_text('x = 1\n')
    importlib.invalidate_caches()
    used = 'import helper_of_mine, json\nimport jax.numpy as jnp\n'
    for source in (
        f'{used}def make(c):\n    jnp.ones(json)\n    return helper_of_mine.x\n',
        'def make(c):\n    import helper_of_mine\n    return helper_of_mine.x\n',
    ):
        found = code_digest.of_function('x', function(source))
        assert found.keys() == {'x', 'helper_of_mine'}


def test_the_make_of_a_module_has_the_name_of_the_module():
    from mixjax.methods import smile

    assert method_registry.function_name(smile.make) == 'smile'
    assert method_registry.function_name(two_heads) == 'given:two_heads'
    assert method_registry.function_name(functools.partial(smile.make)) == 'given:make'
    with pytest.raises(UserError, match='two different functions'):
        methods = {'a': functools.partial(two_heads, share=0.1), 'b': functools.partial(two_heads, share=0.2)}
        mixjax.train.run(settings(), 'nowhere', target=data(), method=methods)


# --- predictions ------------------------------------------------------------------------------------------------------


def test_a_predictor_takes_all_that_an_image_can_be(single, tmp_path):
    model = single[1].model()
    folder = put(tmp_path / 'photos', 6)
    path = folder / 'bright' / '3.png'
    picture = Image.open(path)
    want = model(path)
    assert want.file == path and want.name == want[0].name == 'bright' and want.probability == want[0][1]
    assert want == [(name, probability) for name, probability in want]
    for one in (str(path), path.read_bytes(), picture, picture.convert('RGB'), np.asarray(picture),
                np.asarray(picture) / 255, jax.numpy.asarray(np.asarray(picture))):  # fmt: skip
        assert model(one) == want, type(one)
        np.testing.assert_array_equal(model.probabilities([one]), model.probabilities(path))
    assert model(picture).file is None
    both = model([path, picture, folder / 'dark'], top=1)
    assert [one[0] for one in both[:2]] == [want[0]] * 2 and len(both) == 5
    assert [one.file for one in both] == [path, None, *sorted((folder / 'dark').iterdir())]
    assert len(model([folder])) == 6 and model([]) == []
    assert model.probabilities([folder]).shape == (6, 2)
    with pytest.raises(UserError, match=r"photos is a folder; give it in a list, \['.*photos'\]"):
        model(folder)
    with pytest.raises(UserError, match='no.png'):
        model([path, 'no.png'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='there is no image in'):
        model([tmp_path / 'empty'])


def test_images_of_pillow_have_the_pixels_of_their_files(single):
    model = single[1].model()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    turned = colour.copy()
    turned.getexif()[0x0112] = 6
    deep = Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16))
    for picture, kind in ((colour, 'PNG'), (turned, 'PNG'), (colour.convert('P'), 'PNG'), (deep, 'PNG'),
                          (colour.convert('1'), 'PNG'), (colour.convert('CMYK'), 'TIFF'),
                          (colour.convert('RGBA'), 'PNG')):  # fmt: skip
        file = io.BytesIO()
        picture.save(file, kind, exif=picture.getexif())
        want = model.read(file.getvalue())
        np.testing.assert_array_equal(model.read(picture), want, err_msg=f'{picture.mode} {kind}')
        np.testing.assert_array_equal(model.read(Image.open(file)), want)
    with pytest.raises(UserError, match='only 0 to 1 have a meaning'):
        model.read(Image.fromarray(np.full((4, 4), 7, np.float32)))


def test_features_are_what_the_classifier_sees(single):
    folder, results = single
    model = results.model(batch=4)
    images = np.stack([model.read(image) for image in pictures(6)[0]])
    features = model.features(images)
    assert features.shape == (6, 64) and features.dtype == np.float32
    head = mixjax.create_model('glyphnet', folder)[1]['params']['heads']['target']
    np.testing.assert_allclose(features @ head['kernel'] + head['bias'], model.logits(images), rtol=1e-4, atol=1e-4)
    assert model.features(images[:0]).shape == (0, 64)
    with pytest.raises(UserError, match='images must be of shape'):
        model.features(images[0])


# --- networks ---------------------------------------------------------------------------------------------------------


def test_create_model_gives_the_network_of_a_run(single):
    folder, results = single
    network, variables = mixjax.create_model('glyphnet', folder)
    images = np.stack([results.model().read(image) for image in pictures(4)[0]])
    out, _ = jax.jit(functools.partial(network.apply, train=False))(variables, images / np.float32(255))
    np.testing.assert_allclose(out.logits['target'], results.model().logits(images), rtol=1e-4, atol=1e-4)
    fresh = mixjax.create_model('glyphnet', folder, classes=7)[1]
    assert fresh['params']['heads']['target']['kernel'].shape == (64, 7)
    jax.tree.map(np.testing.assert_array_equal, fresh['params']['backbone'], variables['params']['backbone'])


def test_create_model_draws_what_is_not_given():
    one, two, three = (mixjax.create_model('glyphnet', classes=3, seed=seed)[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    kernels = [tree['params']['heads']['target']['kernel'] for tree in (one, three)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    assert 'heads' not in mixjax.create_model('glyphnet')[1]['params']
    own = mixjax.create_model('glyphnet', 'embedded://glyphnet')[1]
    assert own['params']['heads'].keys() == {'target'} and own['params']['heads']['target']['bias'].shape == (160,)


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (('glyphnot',), "did you mean 'glyphnet'"),
        (('lenet', 'embedded://glyphnet'), "are of a 'glyphnet'"),
        (('glyphnet', 'nowhere.pth'), 'are missing'),
        (('glyphnet', 'random://3'), 'leave the weights out'),
    ],
)
def test_create_model_refuses(words, sentence):
    with pytest.raises(UserError, match=sentence):
        mixjax.create_model(*words)
    with pytest.raises(UserError, match='classes must be'):
        mixjax.create_model('glyphnet', classes=-1)


# --- types ------------------------------------------------------------------------------------------------------------


def keys(config, prefix=''):
    """{dotted key: value} of a config; of an empty group too."""
    out = {}
    for key, value in config.items():
        inner = keys(value, f'{prefix}{key}.') if isinstance(value, ConfigDict) else {}
        out |= {f'{prefix}{key}': value, **inner}
    return out


def is_group(kind):
    return getattr(kind, '_is_protocol', False)


def typed(group, prefix=''):
    """{dotted key: type} of `Config`."""
    out = {}
    for key, kind in defaults.members(group).items():
        inner = typed(kind, f'{prefix}{key}.') if is_group(kind) else {}
        out |= {f'{prefix}{key}': kind, **inner}
    return out


def test_types_and_defaults_agree_key_by_key():
    values, types = keys(mixjax.config.base()), typed(mixjax.Config)
    assert values.keys() == types.keys() and len(values) > 60
    for key, kind in types.items():
        value = values[key]
        if is_group(kind):
            assert isinstance(value, ConfigDict), key
            continue
        assert type(value) is (typing.get_origin(kind) or kind), key
        if isinstance(value, tuple):
            (inside, rest) = typing.get_args(kind)
            assert rest is ... and all(type(one) is inside for one in value), key


def test_a_config_is_a_dict_of_its_own_each_time():
    one, two = mixjax.config.base(), mixjax.config.base()
    one.optim.lr = 1.0
    one.compare = {'a': {'name': 'finetune'}}
    assert two.optim.lr == 0.01 and len(two.compare) == 0 and isinstance(one, ConfigDict)
    with pytest.raises(TypeError):
        mixjax.Config()


def test_stubs_name_what_the_packages_have():
    stub = (ROOT / 'mixjax' / '__init__.pyi').read_text()
    named = set(re.findall(r'^from \S+ import (\w+) as \1$', stub, re.MULTILINE))
    private = ('Any', 'importlib', 'version')
    public = {name for name in dir(mixjax) if not name.startswith('_') and name not in private}
    loaded = {name for name in public if name not in named}
    assert named - {'__version__'} <= public
    # What else a test has imported are submodules, which a type checker knows by their import.
    assert all(importlib.util.find_spec(f'mixjax.{name}') for name in loaded)
    for name in named:
        assert getattr(mixjax, name) is not None
    assert mixjax.train.run is importlib.import_module('mixjax.api').run


@pytest.mark.slow
def test_the_users_file_runs(tmp_path, capsys):
    """That its types hold is checked by `make lint`."""
    spec = importlib.util.spec_from_file_location('typed_user', ROOT / 'examples' / 'typed_user.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r'the picture is (horizontal|vertical)', printed) and 'smooth: ' in printed
    assert 'strict = [' in (ROOT / 'pyproject.toml').read_text()
