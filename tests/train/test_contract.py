"""Mistakes that the author of a method can make: each ends in one sentence before anything is written."""

import re
import sys
import textwrap

import pytest

from mixjax import config as config_lib
from mixjax import errors, main, models
from mixjax.errors import UserError, UserFunction
from mixjax.train import experiment, program, shared
from mixjax.train.shared import shared_setup
from tests.support.common import Tiny

START = """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from mixjax import losses, mix
    from mixjax.method import Aux, First, Head, Method, Prepared, Segments

    def plain(net, params, ctx):
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        return losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)
"""
LOSS = """
    def make(classes_t):
        def loss(net, params, ctx):
            out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
            ce = losses.cross_entropy(out.logits['target'], ctx.batch['label'])
            {}
        return Method(loss)
"""
STATE = """
    def make(classes_t):
        def init(net, params, prepared, data):
            return {init}
        def after_step(net, old, new, aux, ctx):
            {after}
        return Method(plain, init=init, after_step=after_step)
"""
PREPARE = """
    def make(classes_t):
        def prepare(net, data, rng):
            {}
        return Method(plain, prepare=prepare)
"""
DRAW = """
    def make(classes_t):
        def prepare(net, data, rng):
            one = np.ones((classes_t, 1), np.int32)
            good = Segments(np.arange(160, dtype=np.int32), 0 * one, 160 * one, one[:, 0])
            return Prepared(draw=good._replace({}))
        return Method(plain, prepare=prepare)
"""
PREDICT = """
    def make(classes_t):
        def predict(out):
            return {}
        return Method(plain, predict=predict)
"""
MEASURES = """
    def make(classes_t):
        def measures(out, label):
            return {}
        return Method(plain, measures=measures)
"""
HEADS = """
    def make(classes_t):
        return Method(plain, heads=lambda t, s, prepared: {})
"""

# name: (source, what the sentence says). A sentence on an exception of the user's code ends with the file and line.
MISTAKES = {
    'measures that are no dict': (
        MEASURES.format('label'),
        r'measures returned int32 of shape \(16,\); it must be a dict',
    ),
    'a measure of the batch': (
        MEASURES.format("{'x': jnp.float32(1)}"),
        r"measures: 'x' is float32 of shape \(\); it must be a real number of each example, of shape \(B,\), here \(16",
    ),
    'a measure of each class': (MEASURES.format("{'x': out.logits['target']}"), r"'x' is float32 of shape \(16, 10\)"),
    'a measure in complex numbers': (MEASURES.format("{'x': label * 1j}"), r"'x' is complex64 of shape \(16,\)"),
    'a measure that hides another': (MEASURES.format("{'accuracy': label}"), "measures: the name 'accuracy' must be"),
    'a measure with a name of the log': (MEASURES.format("{'step': label}"), "measures: the name 'step' must be"),
    'a measure without a text as name': (MEASURES.format('{3: label}'), 'measures: the name 3 must be'),
    'measures that raise': (
        MEASURES.format("{'x': out.logit}"),
        r'measures raised AttributeError: .*\(MODULE.py, line \d+',
    ),
    'a task that is none': (
        "def make(classes_t):\n    return Method(plain, tasks=('labels',))",
        r'Method\(tasks=..\) must be a tuple of some of classification, multi_label, regression',
    ),
    'measures that are no function': (
        'def make(classes_t):\n    return Method(plain, measures=3)',
        r'Method\(measures=..\) must be a function, not int',
    ),
    'no aux': (LOSS.format('return ce.mean()'), r'loss returned float32 of shape \(\); return \(loss, Aux\('),
    'three values': (
        LOSS.format('return ce.mean(), model_state, {}'),
        r'loss returned a tuple of 3; return \(loss, Aux',
    ),
    'only aux': (LOSS.format('return Aux(model_state)'), r'loss returned an Aux; return \(loss, Aux'),
    'a dict for aux': (LOSS.format('return ce.mean(), {"ce": ce}'), r'loss returned \(loss, a dict of 1\); return'),
    'nothing': (LOSS.format('ce.mean()'), r'loss returned None; return \(loss, Aux'),
    'no mean': (
        LOSS.format('return ce, Aux(model_state)'),
        r'loss that is float32 of shape \(16,\); it must be one float',
    ),
    'int loss': (
        LOSS.format('return (out.logits["target"].argmax(-1) == 0).sum(), Aux(model_state)'),
        'is int32 of shape',
    ),
    'out for the state': (LOSS.format('return ce.mean(), Aux(out)'), 'another model_state than it was given'),
    'variables for the state': (
        LOSS.format('return ce.mean(), Aux(ctx.variables(params))'),
        r"another model_state than it was given \(\['params'\].* is new",
    ),
    'metric of a batch': (
        LOSS.format('return ce.mean(), Aux(model_state, {"ce": ce})'),
        "the metric 'ce' must be a scalar",
    ),
    'metric called loss': (
        LOSS.format('return ce.mean(), Aux(model_state, {"loss": 0.})'),
        "the metric 'loss' must be",
    ),
    'metric of text': (LOSS.format('return ce.mean(), Aux(model_state, {"kind of": "x"})'), "it is the text 'x'"),
    'metrics in a list': (LOSS.format('return ce.mean(), Aux(model_state, [ce.mean()])'), 'must be a dict of scalars'),
    'text to carry': (
        LOSS.format('return ce.mean(), Aux(model_state, {}, {"a": "x"})'),
        r"Aux\(carry=..\) with the text 'x'",
    ),
    'no mean to differentiate': (
        LOSS.format('return jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, ce.mean()), Aux(model_state)'),
        'loss raised ValueError: Reverse-mode differentiation',
    ),
    'if of a traced value': (
        LOSS.format('return (ce.mean() if ce.mean() > 1 else 0 * ce.mean()), Aux(model_state)'),
        r'loss raised TracerBoolConversionError: .* use jnp.where \(MODULE.py, line 15; ',
    ),
    'numpy': (
        LOSS.format('return np.mean(np.asarray(ce)), Aux(model_state)'),
        r'loss raised TracerArrayConversionError: .* use jax.numpy \(MODULE.py, line 15; ',
    ),
    'int of a traced value': (
        LOSS.format('return ce[: int(ctx.step)].mean(), Aux(model_state)'),
        r'Error: a traced value .*\(MODULE.py, line 15; ',
    ),
    'indexed by a mask': (
        LOSS.format('return ce[ce > 1].mean(), Aux(model_state)'),
        r'mask.* use jnp.where \(MODULE.py, line 15',
    ),
    'unknown head': (
        LOSS.format('return out.logits["targt"].mean(), Aux(model_state)'),
        r"loss raised KeyError: 'targt' \(MODULE.py, line 15",
    ),
    'unknown batch key': (
        LOSS.format('return ctx.batch["source_image"].mean(), Aux(model_state)'),
        r"KeyError: 'source_image' \(MODULE",
    ),
    'unknown map': (
        LOSS.format('return out.maps["stage9"].mean(), Aux(model_state)'),
        r"KeyError: 'stage9' \(MODULE.py, line 15",
    ),
    'misspelt field': (
        LOSS.format('return ce.mean(), Aux(ctx.model_stat)'),
        r"AttributeError: .*'model_stat'.*MODULE.py, line 15",
    ),
    'wrong shapes': (
        LOSS.format('return (ce @ ce[:3]).mean(), Aux(model_state)'),
        r'loss raised TypeError: .*MODULE.py, line 15',
    ),
    'forgot train': (
        LOSS.format('return net.apply(ctx.variables(params), ctx.batch["image"])[0].features.mean(), Aux(model_state)'),
        r"missing 1 required keyword-only argument: 'train' \(MODULE.py, line 15",
    ),
    'tap without result': (
        LOSS.format(
            'return net.apply(ctx.variables(params), ctx.batch["image"], train=True, tap=lambda n, h: None), 1'
        ),
        r'loss raised \w+: .*\(MODULE.py, line 15',
    ),
    'tap by an unknown name': (
        LOSS.format(
            'return net.apply(ctx.variables(params), ctx.batch["image"], train=True, tap=lambda n, h: {"x": h}[n]), 1'
        ),
        r"loss raised KeyError: 'input' \(MODULE.py, line 15",
    ),
    'loss of two arguments': (
        'def make(classes_t):\n    def loss(net, params):\n        return 0\n    return Method(loss)',
        r'loss raised TypeError: .* takes 2 positional arguments but 3 were given \(MODULE.py, line 12',
    ),
    'after_step without state': (
        STATE.format(init='{}', after='return new'),
        'after_step returned a dict of 2; return',
    ),
    'nothing after a step': (STATE.format(init='{}', after='pass'), 'after_step returned None; return'),
    'state that grows': (
        STATE.format(init='{"a": jnp.zeros(3)}', after='return new, {"a": jnp.append(ctx.state["a"], 0)}'),
        r"after_step returned state .*\['a'\] was float32 of shape \(3,\) and is float32 of shape \(4,\)",
    ),
    'state of another type': (
        STATE.format(init='{"n": jnp.zeros((), int)}', after='return new, {"n": ctx.state["n"] + 0.5}'),
        r"\['n'\] was int32 of shape \(\) and is float32",
    ),
    'state of other keys': (
        STATE.format(init='{"a": jnp.zeros(3)}', after='return new, {"b": ctx.state["a"]}'),
        r"\['a'\] is missing, \['b'\] is new",
    ),
    'state of another kind': (
        STATE.format(init='[jnp.zeros(3)]', after='return new, (ctx.state[0],)'),
        r'its containers \(dicts, lists, tuples\) are of another kind',
    ),
    'only the trunk': (
        STATE.format(init='()', after='return {"backbone": new["backbone"]}, ctx.state'),
        r"after_step returned params .*\['heads'\]\['target'\].* is missing",
    ),
    'state of text': (
        STATE.format(init='["a", "b"]', after='return new, ctx.state'),
        "init returned a state with the text 'a'",
    ),
    'init that fails': (
        STATE.format(init='data.targets', after='return new, ()'),
        r'init raised AttributeError: .*MODULE.py, line 13',
    ),
    'prepare without Prepared': (
        PREPARE.format('return {"a": np.ones(3)}'),
        r'prepare returned a dict of 1; return Prepared',
    ),
    'prepare without result': (PREPARE.format('pass'), 'prepare returned None; return Prepared'),
    'frozen that is an array': (PREPARE.format('return Prepared(np.ones(3))'), 'must be a dict of arrays'),
    'frozen of objects': (
        PREPARE.format('return Prepared({"a": np.array([{}])})'),
        r"frozen\['a'\] is an array of type object",
    ),
    'frozen of text': (PREPARE.format('return Prepared({"a": {"b": ["x"]}})'), r"frozen\['a'\]\['b'\] is a list of 1"),
    'frozen by numbers': (PREPARE.format('return Prepared({1: np.ones(3)})'), 'must be text without /, not 1'),
    'notes of arrays': (PREPARE.format('return Prepared(notes={"a": np.ones(3)})'), "the note 'a' must be one number"),
    'prepare that fails': (
        PREPARE.format('return data.target.sizes["x"]'),
        r'prepare raised IndexError: .*MODULE.py, line 13',
    ),
    'a file that is not there': (
        PREPARE.format('return np.load("nothing.npy")'),
        r'prepare raised FileNotFoundError: .*MODULE.py, line 13',
    ),
    'draw out of range': (
        DRAW.format('rows=np.arange(1000)'),
        r'draw.rows must be .* from 0 to 319, and go from 0 to 999',
    ),
    'draw past its end': (DRAW.format('start=200 * one'), r'segment 0 of target class 0 \(start 200, count 160\) must'),
    'draw of nothing': (DRAW.format('count=0 * one'), 'must have at least one row'),
    'draw of floats': (DRAW.format('rows=np.ones(160)'), 'draw.rows must be an array of whole numbers'),
    'draw for other classes': (
        DRAW.format('start=one[:3], count=one[:3]'),
        r'must both be of shape .*\(10, ..\), not \(3, 1\)',
    ),
    'draw of more rounds': (DRAW.format('rounds=2 * one[:, 0]'), 'draw.rounds must say'),
    'predict of features': (
        PREDICT.format('out.features'),
        r'predict returned float32 of shape \(16, 8\); .*10 target classes',
    ),
    'predict of classes': (
        PREDICT.format('out.logits["target"].argmax(-1)'),
        r'predict returned int32 of shape \(16,\)',
    ),
    'predict of everything': (PREDICT.format('out'), 'predict returned an Out; it must be the logits'),
    'predict of a misspelt head': (
        PREDICT.format('out.logits["targt"]'),
        r"predict raised KeyError: 'targt' \(MODULE.py, line 13",
    ),
    'head of no class': (HEADS.format('{"target": Head(0)}'), "'target' must be a Head of at least one class"),
    'heads in a list': (HEADS.format('[Head(t)]'), r'heads returned a list of 1; return a dict'),
    'heads of text': (HEADS.format('{"target": "ten"}'), "'target' must be a Head"),
    'rows that are not there': (
        HEADS.format('{"target": Head(t, np.arange(t) + 155)}'),
        'go from 155 to 164; the pretrained',
    ),
    'too few rows': (HEADS.format('{"target": Head(t, np.arange(3))}'), 'of width 10 names 3 rows'),
    'another head, no predict': (
        HEADS.format('{"joint": Head(t)}'),
        r"loss raised KeyError: 'target' \(MODULE.py, line 10",
    ),
    'a joint head, no predict': (
        'def make(classes_t):\n    def loss(net, params, ctx):\n'
        '        out, state = net.apply(ctx.variables(params), ctx.batch["image"], train=True)\n'
        '        return out.logits["joint"].mean(), Aux(state)\n'
        '    return Method(loss, heads=lambda t, s, prepared: {"joint": Head(t)})',
        r"predict: the method has no head 'target' \(its heads are joint\); give it a predict",
    ),
    'a part that is not there': (
        'def make(classes_t):\n    return Method(plain, groups={"stage7": (0., 0.)})',
        "'stage7'; did you mean 'stage1'",
    ),
    'a bare factor': (
        'def make(classes_t):\n    return Method(plain, groups={"stem": 0.1})',
        r"groups\['stem'\] must be \(learning rate factor",
    ),
    'everything frozen': (
        'def make(classes_t):\n    return Method(plain, groups={"trunk": (0, 0), "heads": (0, 0)})',
        'its groups freeze every part of the network, and it has no after_step',
    ),
    'no default': ('def make(classes_t, *, alpha):\n    return Method(plain)', 'give alpha a default value'),
    'a default of another kind': (
        'def make(classes_t, *, alpha=None):\n    return Method(plain)',
        'the default of alpha must be',
    ),
    'make without result': (
        'def make(classes_t):\n    Method(plain)',
        r'make\(\) must return a mixjax.method.Method, not NoneType',
    ),
    'make that fails': (
        'def make(classes_t):\n    return Method(plain, los=1)',
        r'make raised TypeError: .*\(MODULE.py, line 12',
    ),
    'make that lacks a key': (
        'def make(classes_t):\n    return {}["x"]',
        r"make raised KeyError: 'x' \(MODULE.py, line 12",
    ),
    'make without classes': ('def make():\n    return Method(plain)', r'make raised TypeError: .*\(MODULE.py, line 11'),
    'a loss that is no function': (
        'def make(classes_t):\n    return Method(3)',
        r'Method\(loss=..\) must be a function, not int',
    ),
    'no make': ('def mak(classes_t):\n    return Method(plain)', r'has no function make\('),
    'a module that fails': ('1 / 0', r'the import raised ZeroDivisionError: .*\(MODULE.py, line 11'),
    'a module that is no Python': ('def make(:', r'the import raised SyntaxError: .*\(MODULE.py, line 11'),
    'a module that imports nothing': (
        'import nothing_of_that_name',
        r'the import raised ModuleNotFoundError: .*MODULE.py, line 11',
    ),
    'a first stage that fails': (
        'def make(classes_t):\n    one = np.ones((classes_t, 1), np.int32)\n'
        '    draw = Segments(np.arange(160), 0 * one, 160 * one, one[:, 0])\n'
        '    def loss(net, params, ctx):\n        return 1\n'
        '    return Method(plain, prepare=lambda *_: Prepared(draw=draw), first=First(lambda classes: Method(loss)))',
        r'\(first stage\): loss returned int32 of shape \(\); return',
    ),
    'a first stage without a method': (
        'def make(classes_t):\n    one = np.ones((classes_t, 1), np.int32)\n'
        '    draw = Segments(np.arange(160), 0 * one, 160 * one, one[:, 0])\n'
        '    return Method(plain, prepare=lambda *_: Prepared(draw=draw), first=First(lambda classes: None))',
        r'\(first stage\).*make\(\) must return a mixjax.method.Method, not NoneType',
    ),
    'a first stage that is a method': (
        'def make(classes_t):\n    return Method(plain, first=Method(plain))',
        r'Method\(first=..\) must be First\(method',
    ),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def package(source, folder, name):
    """A module `mine.NAME` with that source; returns its dotted name."""
    (folder / 'mine').mkdir(exist_ok=True)
    sys.modules.pop('mine', None)
    text = textwrap.dedent(START).rstrip() + '\n' + textwrap.dedent(source).strip('\n') + '\n'
    (folder / 'mine' / f'{name}.py').write_text(text)
    return f'mine.{name}'


def settings(method, **changes):
    config = config_lib.base()
    config.method = {'name': method}
    config.model.name, config.model.weights = 'tiny', 'random://160'
    config.target.name, config.source.name = 'synthetic', 'glyphs'
    config.synthetic.per_class, config.synthetic.side = 2, 16
    config.image.resize, config.image.crop, config.image.pad, config.image.flip = 16, 16, 1, False
    config.image.mean = config.image.std = (0.5,)
    config.optim.schedule, config.optim.lr = 'constant', 0.03
    config.batch_size, config.steps, config.devices = 16, 4, 1
    config.update(changes)
    return config


@pytest.fixture(scope='module')
def ground():
    """Data and network, the same for every mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
        return shared_setup(config_lib.settle(config_lib.complete(settings('finetune'))))


@pytest.fixture
def on_it(ground, monkeypatch):
    fresh = ground._replace(initialisers={}, evaluators={})
    monkeypatch.setattr(shared, 'shared_setup', lambda config, say=None: fresh)


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_ends_in_one_sentence_before_anything_is_written(mistake, on_it, tmp_path):
    source, said = MISTAKES[mistake]
    name = 'm' + re.sub(r'\W', '_', mistake)
    method = package(source, tmp_path, name)
    with pytest.raises(UserError) as found:
        experiment.run(settings(method), tmp_path / 'run', progress=False)
    sentence = str(found.value)
    assert re.search(said.replace('MODULE', name), sentence), sentence
    assert name in sentence or 'groups' in source or 'make' in sentence, sentence
    assert '\n' not in sentence and len(sentence) < 900
    if ' raised ' in sentence:
        assert found.value.__cause__ is not None and errors.TRACEBACK in sentence
    assert not (tmp_path / 'run').exists()


KEEPS = """
    kept = []
    def make(classes_t):
        def loss(net, params, ctx):
            value, aux = plain(net, params, ctx)
            kept.append(value)
            return value + kept[0], aux
        return Method(loss)
"""
NAN = LOSS.format('return jnp.float32(jnp.nan), Aux(model_state)')


@pytest.mark.parametrize(
    ('source', 'said'),
    [
        (
            KEEPS,
            r'loss raised UnexpectedTracerError: a traced value was kept .* in the method.s state \(keeps.py, line \d+',
        ),
        (NAN, 'the loss of seed 0 .*not finite|not finite'),
    ],
    ids=['kept', 'nan'],
)
def test_mistakes_that_only_training_shows_end_in_one_sentence(source, said, on_it, tmp_path):
    method = package(source, tmp_path, 'keeps')
    sys.modules.pop(method, None)
    with pytest.raises(UserError, match=said):
        experiment.run(settings(method, log_every=1), tmp_path / 'run', progress=False)


def test_the_command_shows_the_sentence_and_on_demand_the_traceback(tmp_path, monkeypatch, capsys):
    method = package(LOSS.format('return jnp.sin(None), Aux(model_state)'), tmp_path, 'shown')
    words = ['--config=quickstart', f'--config.method.name={method}', '--workdir=run']
    assert main.main(words) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and error.startswith(f'mixjax: method {method}: loss raised TypeError: ')
    assert 'shown.py, line 15; MIXJAX_TRACEBACK=1' in error and 'Traceback' not in error
    monkeypatch.setenv(errors.TRACEBACK, '1')
    assert main.main(words) == 2
    error = capsys.readouterr().err
    assert 'Traceback' in error and 'return jnp.sin(None)' in error and error.splitlines()[-1].startswith('mixjax: ')


def test_error_names_the_innermost_line_of_user_code(tmp_path):
    """Not by a line of a library, which may lie in an environment inside the user's folder."""
    for folder in ('.venv/lib/site-packages/library', 'helpers'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / '.venv/lib/site-packages/library/__init__.py').write_text('def f(x):\n\n    return 1 / x\n')
    (tmp_path / 'helpers/inner.py').write_text('import library\n\n\ndef g(x):\n    return library.f(x)\n')
    (tmp_path / 'outer.py').write_text('from helpers import inner\n\ndef h(x):\n    return inner.g(x)\n')
    sys.path.insert(1, str(tmp_path / '.venv/lib/site-packages'))
    try:
        import outer  # pyright: ignore[reportMissingImports]

        with pytest.raises(UserError, match=r'h raised ZeroDivisionError: .* \(inner.py, line 5; '):
            UserFunction(outer.h, 'h')(0)
    finally:
        sys.path.remove(str(tmp_path / '.venv/lib/site-packages'))


def test_methods_with_one_predict_share_the_evaluation(ground):
    on = ground._replace(evaluators={})
    one, two, other = (
        program.build(config_lib.settle(config_lib.complete(settings(name))), on)
        for name in ('finetune', 'mixup', 'xmixup')
    )
    assert one.evaluate is two.evaluate is not other.evaluate
