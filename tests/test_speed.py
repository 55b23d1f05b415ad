"""What can be judged of speed without a stopwatch: work, memory, traffic, compilations, and what is handed over."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import zlib
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.data.datasets import embedded
from mixjax.host import compile_cache
from mixjax.maths import class_pairing
from mixjax.models import layers
from mixjax.planner import hlo
from mixjax.train import accuracy, program, schedule, seed_batch, seeds, step
from mixjax.train.shared import shared_setup
from tests.support import trace
from tests.support.common import ROOT, assert_same_run, call, environment
from tests.support.jobs import CONFIG, run

# Work of a step to that of fine-tuning: what a method cannot do without, in passes through the network, of which
# fine-tuning has three: forward, gradient by the input, gradient by the parameters.
WORK = {
    'mixup': (1.0, 1.02), 'xmixup': (1.0, 1.02), 'lamix': (1.0, 1.02), 'cutmix': (1.0, 1.02),
    'l2sp': (1.0, 1.02), 'rifle': (1.0, 1.02), 'label_smoothing': (1.0, 1.02), 'seqtrain': (1.0, 1.02),
    'cotuning': (1.0, 1.02), 'regsl': (1.0, 1.05), 'bss': (1.0, 1.05), 'manifold_mixup': (1.0, 1.02),
    'smile': (4 / 3, 1.40), 'delta': (4 / 3, 1.40), 'puzzlemix': (5 / 3, 1.90), 'cotrain': (2.0, 2.05),
    'feature_extraction': (1 / 3, 0.5), 'xcutmix': (1.0, 1.02), 'rdrop': (1.0, 1.02), 'distill': (4 / 3, 1.40),
    'supcon': (2.0, 2.05), 'selftrain': (2.0, 2.05), 'fixmatch': (15.0, 15.3), 'bitfit': (2 / 3, 0.7),
    'lntune': (2 / 3, 0.7), 'lora': (1.0, 1.05), 'sam': (2.0, 2.05), 'ema': (1.0, 1.02), 'wiseft': (1.0, 1.02),
    'lpft': (1.0, 1.02),
}  # fmt: skip
# Temporary memory to that of fine-tuning, where a pass without a gradient leaves at most some maps behind.
MEMORY = {'smile': 1.05, 'delta': 1.2, 'xmixup': 1.05, 'mixup': 1.05}
ALWAYS = ('smile', 'xmixup')


def settings(method, **changes):
    """The embedded benchmark, with its own network and weights."""
    config = config_lib.load('quickstart', [('method.name', method)])
    with config.unlocked():
        config.update({'num_seeds': 1, 'devices': 1, 'eval_batch_size': 64, **changes})
    return config


class Compiled:
    """The training program of a seed, traced, compiled when it is asked for, and what it is given."""

    def __init__(self, config, on, folder, count=1):
        self.built = program.build(config, on)
        every = range(self.built.mesh.shape['trial'])
        folder.mkdir(exist_ok=True)
        opened = [seeds.open_seed(self.built, seed, folder) for seed in every]
        self.placed = seed_batch.place_seeds(self.built, opened)
        self.ts = seed_batch.stack_states(self.built, [one.state for one in opened])
        self.given = self.ts, self.built.shared.start, self.placed.frozen, self.placed.feed.inputs(0, count)
        self.traced = self.built.advance(count).trace(*self.given)

    @cached_property
    def program(self):
        return self.traced.lower().compile()

    @cached_property
    def text(self):
        return self.program.as_text()

    @property
    def memory(self):
        return self.program.memory_analysis()

    @property
    def flops(self):
        return self.program.cost_analysis()['flops']

    def passes(self):
        """Counter of the convolutions of a step, by what they depend on: parameters, state, pretrained network."""
        nothing = jax.tree.map(lambda x: False, self.given)
        ts, start, frozen, inputs = nothing
        all_of = partial(jax.tree.map, lambda x: True)
        return trace.passes(
            self.traced.jaxpr,
            params=(ts._replace(params=all_of(ts.params)), start, frozen, inputs),
            state=(ts._replace(state=all_of(ts.state)), start, frozen, inputs),
            start=(ts, all_of(start), frozen, inputs),
        )


@pytest.fixture(scope='module')
def on(tmp_path_factory):
    """Data and network, shared by the programs of one device."""
    return shared_setup(settings('finetune', cache_dir=str(tmp_path_factory.mktemp('cache'))))


@pytest.fixture(scope='module')
def base(on, tmp_path_factory):
    return Compiled(settings('finetune'), on, tmp_path_factory.mktemp('finetune'))


# --- work -------------------------------------------------------------------------------------------------------------


def test_every_method_has_a_work_bound():
    from mixjax.config import method_registry

    assert set(method_registry.names()) == {'finetune', 'probe', *WORK}  # probe takes no steps


@pytest.mark.parametrize(
    'method', [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in WORK]
)
def test_a_step_does_no_more_work_than_its_method_needs(method, on, base, tmp_path):
    floor, most = WORK[method]
    made = Compiled(settings(method), on, tmp_path)
    assert 0.97 * floor <= made.flops / base.flops <= most
    assert made.memory.temp_size_in_bytes <= MEMORY.get(method, 3) * base.memory.temp_size_in_bytes
    assert_donated(made)
    assert ' conditional(' not in made.text  # what is due every so many steps is chosen, not branched to


@pytest.mark.parametrize('method', ['smile', pytest.param('delta', marks=pytest.mark.slow)])
def test_teacher_is_one_forward_pass_without_dependencies(method, on, base, tmp_path):
    """So a device may run it beside the student's own forward pass, which does not wait for it either."""
    config = base.built.config
    image = jnp.zeros((config.batch_size, config.image.crop, config.image.crop, 1))
    one = jax.make_jaxpr(lambda start, x: on.net.apply(start, x, train=False))(on.start, image)
    forward = len(trace.convolutions(one))
    backward = 2 * forward - 1  # no gradient by the image
    assert base.passes() == {frozenset({'params'}): forward + backward}
    found = Compiled(settings(method), on, tmp_path).passes()
    assert sum(count for on_what, count in found.items() if 'params' not in on_what) == forward
    # The student's, and what of its gradient the teacher has no part in.
    assert found[frozenset({'params'})] >= forward
    assert sum(found.values()) == 2 * forward + backward


@pytest.mark.slow
def test_work_and_memory_follow_the_batch(on, base, tmp_path):
    large = Compiled(settings('finetune', batch_size=96), on, tmp_path)
    assert large.flops / base.flops == pytest.approx(2, rel=0.02)
    assert large.memory.temp_size_in_bytes < 2.2 * base.memory.temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_a_step_does_not_follow_the_images(on, base, tmp_path):
    """XMixup's images lie there too: they are arguments, and a step takes its batch from them."""
    made = []
    for rounds in (1, 16):
        config = settings('xmixup')
        with config.unlocked():
            config.method.rounds, config.method.labels = rounds, 'target'  # a head of one width
        made.append(Compiled(config, on, tmp_path / str(rounds)))
    few, many = made
    more = many.memory.argument_size_in_bytes - few.memory.argument_size_in_bytes
    assert more > 100_000
    assert many.memory.temp_size_in_bytes < few.memory.temp_size_in_bytes + 0.1 * more


# --- what a program is given, and what leaves it ----------------------------------------------------------------------


def assert_donated(made):
    """Parameters, statistics, momentum and the method's own state need no second place."""
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(made.ts) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    assert made.memory.alias_size_in_bytes >= state
    aliased = re.search(r'input_output_alias=\{ (.*?) \}, entry', made.text)
    assert aliased is not None and aliased[1].count('may-alias') + aliased[1].count('must-alias') >= 0.9 * len(
        jax.tree.leaves(made.ts)
    )


def test_train_state_buffers_are_donated(base):
    assert_donated(base)


TALK = r'\b(infeed|outfeed|send|recv|send-done|recv-done)\(|custom_call_target="[^"]*(callback|host)[^"]*"'


def test_chunk_of_steps_is_one_program_without_host_transfers(on, tmp_path):
    chunk = Compiled(settings('finetune'), on, tmp_path, count=3)
    assert not re.search(TALK, chunk.text)
    assert re.search(r' while\(', chunk.text)

    def told(x):
        jax.debug.callback(lambda x: None, x)
        return x + 1

    # The pattern finds what it looks for.
    assert re.search(TALK, jax.jit(told).lower(1.0).compile().as_text())


def test_no_transfers_between_steps(base):
    """The calls of the loop give the devices nothing, and take nothing from them."""
    ts = jax.tree.map(jnp.copy, base.ts)
    with jax.transfer_guard('disallow'):
        for first, count in itertools.islice(schedule.calls(base.built.config, 0), 5):
            inputs = base.placed.feed.inputs(first, count)
            ts, last = base.built.advance(count)(ts, base.built.shared.start, base.placed.frozen, inputs)
            jax.block_until_ready(last)
        # The guard guards.
        with pytest.raises(Exception, match='[Dd]isallowed'):
            jax.block_until_ready(jax.jit(jnp.sin)(np.ones(3)))
    assert int(ts.step[0]) == 5


def test_evaluation_is_one_program_without_transfers(base):
    """The test images lie on the device in batches of one size, of which the last alone is filled up."""
    built, placed = base.built, base.placed
    assert len({tuple((x.shape, x.dtype) for x in batch) for batch in placed.test.batches}) == 1
    masks = [np.asarray(mask).sum() for *_, mask in placed.test.batches]
    size = built.config.eval_batch_size
    assert sum(masks) == placed.test.count and set(masks[:-1]) == {size} and 0 < masks[-1] <= size
    with jax.transfer_guard_host_to_device('disallow'):
        (found,) = accuracy.measure(built.evaluate, step.variables(base.ts), *placed.test)
    assert built.evaluate._cache_size() == 1 and 0 < found['accuracy'] < 1


@pytest.mark.parametrize(('log_every', 'count', 'calls'), [(50, 25, 16), (20, 20, 20), (40, 20, 20), (1, 1, 400)])
def test_accelerators_take_many_steps_a_call(log_every, count, calls, monkeypatch):
    config = settings('finetune', log_every=log_every)
    alone = list(schedule.calls(config, 0))
    assert alone == [(i, 1) for i in range(400)]
    monkeypatch.setattr(schedule.jax, 'default_backend', lambda: 'gpu')
    found = list(schedule.calls(config, 0))
    assert schedule.steps_a_call(config) == count and len(found) == calls
    assert [at for first, n in found for at in range(first, first + n)] == [at for at, _ in alone]
    # Nothing that is due comes in the middle of one, and a run that was stopped goes on with the same.
    assert all(first + n <= schedule.next_stop(config, first) for first, n in found)
    assert list(schedule.calls(config, 200)) == [one for one in found if one[0] >= 200]
    with config.unlocked():
        config.dispatch = 7
    assert next(schedule.calls(config, 0)) == (0, 7 if log_every >= 7 else 1)


def once(function, *trees):
    """How often the bytes of the first tree are read or written, as the compiler counts it."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees[0]))
    return jax.jit(function).lower(*trees).compile().cost_analysis()['bytes accessed'] / size


def test_optimiser_and_average_are_a_pass_over_the_parameters_each(on, tmp_path):
    """Of gradient, momentum and parameter each is read, and the last two are written."""
    made = Compiled(settings('smile'), on, tmp_path)
    tx, method = made.built.tx, made.built.method
    # Larger, so that numbers and counters do not matter.
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape[1:-1], 64 * x.shape[-1]), x.dtype), made.ts.params)

    def optimiser(params, grads, opt_state):
        updates, opt_state = tx.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state

    # A CPU takes three loops: the decayed gradient, momentum, parameter. One loop for each operation would be 20.
    assert 4.9 <= once(optimiser, wide, wide, jax.eval_shape(tx.init, wide)) <= 10.1

    def average(teacher, params):
        ctx = step.Ctx((), {'teacher': {'backbone': teacher}}, (), {}, jax.random.key(0), jnp.int32(0), made.built.run)
        return method.after_step(made.built.net, {'backbone': params}, {}, None, ctx)[1]

    assert 2.9 <= once(average, wide['backbone'], wide['backbone']) <= 3.1


def reductions(jaxpr, size):
    """How many sums over arrays of `size` numbers there are, and how many of these wait for another one."""
    waits, found, late = set(), 0, 0
    for eqn in jaxpr.eqns:
        behind = any(v in waits for v in eqn.invars if isinstance(v, jax.extend.core.Var))
        if eqn.primitive.name == 'reduce_sum' and eqn.invars[0].aval.size == size:
            found, late, behind = found + 1, late + behind, True
        if behind:
            waits |= set(eqn.outvars)
    return found, late


def test_batch_statistics_take_one_pass():
    x = jnp.ones((4, 5, 5, 3))
    norm = layers.BatchNorm()
    made = norm.init(jax.random.key(0), x, True)
    ours = jax.make_jaxpr(lambda x: norm.apply(made, x, True, mutable=['batch_stats']))(x)
    assert reductions(ours.jaxpr, x.size) == (2, 0)
    in_two = jax.make_jaxpr(lambda x: jnp.sum((x - jnp.sum(x, (0, 1, 2)) / 100) ** 2, (0, 1, 2)))(x)
    assert reductions(in_two.jaxpr, x.size) == (2, 1)


@pytest.mark.parametrize(
    'method', [name if name == 'smile' else pytest.param(name, marks=pytest.mark.slow) for name in ('finetune', *WORK)]
)
def test_bfloat16_is_used_for_feature_maps_only(method, tmp_path):
    """Convolutions are computed in it; sums, logarithms, losses, the average and all that stays are float32."""
    config = settings(method, cache_dir=str(tmp_path / 'cache'))
    with config.unlocked():
        config.model.dtype = 'bfloat16'
    traced = Compiled(config, None, tmp_path / 'run').traced
    floats = {x.dtype for x in jax.tree.leaves(traced.out_info) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {jnp.dtype('float32')}
    narrow = trace.primitives_of(traced.jaxpr, jnp.bfloat16)
    assert not narrow & trace.WIDE
    types = {v.aval.dtype for eqn in trace.convolutions(traced.jaxpr) for v in (*eqn.invars, *eqn.outvars)}
    assert types == {jnp.dtype('bfloat16')}


def test_bfloat16_sums_are_detected():
    x = jnp.ones((3, 2), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda bias: (x + bias).astype(jnp.float32).mean()))(x[0])
    assert trace.primitives_of(jaxpr, jnp.bfloat16) & trace.WIDE == {'reduce_sum'}


@pytest.mark.slow
def test_eight_devices_share_the_memory_of_a_step(base, tmp_path):
    eight = Compiled(settings('finetune', devices=8), None, tmp_path)
    assert eight.built.mesh.devices.shape == (1, 8)
    assert eight.memory.temp_size_in_bytes < 0.3 * base.memory.temp_size_in_bytes
    assert {one.kind for one in hlo.collectives(eight.text)} == {'all-reduce'}


# --- what is compiled -------------------------------------------------------------------------------------------------

# With a cache on disk that keeps everything and was empty, a hit is a program that this process has compiled before.
COUNTING = """
import json, logging, sys
import jax
jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
again, count = [], [0]

class Hits(logging.Handler):
    def emit(self, record):
        if record.msg.startswith('Persistent compilation cache hit'):
            again.append(record.args[0])

def asked(event, **about):
    count[0] += event == '/jax/compilation_cache/compile_requests_use_cache'

log = logging.getLogger('jax._src.compiler')
log.setLevel(logging.DEBUG)
log.propagate = False
log.addHandler(Hits())
jax.monitoring.register_event_listener(asked)
from mixjax import main
%s
print(json.dumps({'again': again, 'asked': count[0]}))
"""
TWICE = 'jax.jit(lambda x: x + 1)(1.0), jax.jit(lambda x: x + 1)(1.0)'
TINY = """
import tests.support.tiny_config
from mixjax.train import loop
config = tests.support.tiny_config.get_config()
config.compare = {name: {'name': name} for name in ('finetune', 'mixup', 'smile')}
config.num_seeds = 2
experiment.run(config, sys.argv[2])
"""
QUICKSTART = """
words = ['--config=quickstart', f'--workdir={sys.argv[2]}', '--config.steps=8', '--config.eval_every=4']
assert main.main([*words, '--config.checkpoint_every=4', '--config.log_every=2']) == 0
"""


def compiled_by(code, folder):
    done = subprocess.run(
        [sys.executable, '-c', COUNTING % code, str(folder / 'programs'), str(folder / 'run')],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_recompilation_is_detected(tmp_path):
    assert len(compiled_by(TWICE, tmp_path)['again']) == 1


@pytest.mark.parametrize(
    ('code', 'again', 'most'),
    [
        pytest.param(TINY, ['jit_batch'], 150, id='tiny', marks=pytest.mark.slow),
        pytest.param(QUICKSTART, ['jit_batch'] * 2, 200, id='quickstart', marks=pytest.mark.slow),
    ],
)
def test_nothing_is_compiled_twice(code, again, most, tmp_path):
    """But the evaluation of a method that has one more head, which it does not read: what a run keeps answers that."""
    found = compiled_by(code, tmp_path)
    assert found['again'] == again
    assert 10 < found['asked'] <= most


def test_methods_share_evaluation_and_init_programs(on):
    one, other, own = (program.build(settings(name), on) for name in ('finetune', 'mixup', 'xmixup'))
    assert one.evaluate is other.evaluate and one.evaluate is not own.evaluate
    assert one.shared.initialisers is own.shared.initialisers


# --- programs on disk -------------------------------------------------------------------------------------------------


def test_truncated_cache_entries_are_removed(tmp_path):
    good, torn = zlib.compress(b'program' * 100), zlib.compress(b'program' * 100)[:-9]
    for name, entry in (('a', good), ('b', torn), ('c', b''), ('d', b'\x28\xb5 of another packer')):
        (tmp_path / f'{name}-cache').write_bytes(entry)
    compile_cache.clean_up(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {'a-cache', 'd-cache', compile_cache.STAMP}
    # What was looked at is not read again.
    old = tmp_path / 'a-cache'
    old.write_bytes(torn)
    os.utime(old, (1, 1))
    compile_cache.clean_up(tmp_path)
    assert old.exists()


def test_oldest_cache_entries_are_evicted_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, 'MOST', 250)
    for k in range(4):
        path = tmp_path / f'{k}-cache'
        path.write_bytes(b'\x28' * 100)
        os.utime(path, (1000 + k, 1000 + k))
    compile_cache.clean_up(tmp_path)
    assert sorted(path.name for path in tmp_path.glob('*-cache')) == ['2-cache', '3-cache']


@pytest.fixture
def changed(monkeypatch):
    """What `keep` changes of jax's settings, which stay as they are."""
    found = {}
    monkeypatch.setattr(compile_cache.jax.config, 'update', found.__setitem__)
    monkeypatch.setattr(compile_cache, 'user_configured', lambda: False)
    return found


def test_compile_cache_is_kept_per_processor_kind(changed, tmp_path):
    compile_cache.enable(str(tmp_path / 'c'))
    assert changed['jax_compilation_cache_dir'] == str(tmp_path / 'c' / 'programs' / compile_cache.machine_name())
    assert len(compile_cache.machine_name()) == 16


@pytest.mark.parametrize('words', ['JAX_COMPILATION_CACHE_DIR=/elsewhere', 'JAX_ENABLE_COMPILATION_CACHE=false', ''])
def test_user_cache_env_vars_win(words):
    name, _, value = words.partition('=')
    code = 'from mixjax.host import compile_cache as c; print(c.user_configured())'
    env = environment() | ({name: value} if name else {})
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == f'{bool(words)}\n'


def test_compile_cache_leaves_user_settings_alone(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, 'user_configured', lambda: True)
    compile_cache.enable(str(tmp_path / 'c'))
    assert changed == {} and not (tmp_path / 'c').exists()


def test_unwritable_compile_cache_is_disabled(changed, tmp_path):
    (tmp_path / 'file').write_text('')
    compile_cache.enable(str(tmp_path / 'file'))
    assert changed == {}


@pytest.mark.slow
def test_cached_programs_give_the_same_run(tmp_path, monkeypatch):
    """Bit for bit, with a program that a killed process has left half-written, too; and nobody complains."""
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '')
    kept = Path(os.environ['MIXJAX_CACHE'], 'programs', compile_cache.machine_name())
    for name in ('one', 'two', 'three'):
        done = call(tmp_path, f'{CONFIG}:smile', f'--workdir={name}')
        assert done.returncode == 0 and done.stderr == '', done.stderr
        entries = {path: path.read_bytes() for path in kept.glob('*-cache')}
        assert any(path.name.startswith('jit_train_step') for path in entries)
        largest = max(entries, key=lambda path: len(entries[path]))
        largest.write_bytes(entries[largest][:-100])
    assert_same_run(tmp_path / 'one', tmp_path / 'two', range(1), 20)
    assert_same_run(tmp_path / 'one', tmp_path / 'three', range(1), 20)
    monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'false')
    assert call(tmp_path, f'{CONFIG}:smile', '--workdir=anew').returncode == 0
    assert_same_run(tmp_path / 'one', tmp_path / 'anew', range(1), 20)


@pytest.mark.slow
def test_two_processes_use_the_compile_cache_of_an_earlier_run(tmp_path):
    """They see one folder, the first of them writes to it, and the second run is the first one bit for bit."""
    kept = Path(os.environ['MIXJAX_CACHE'], 'programs', compile_cache.machine_name())
    found = []
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        found.append(run(tmp_path / name, 2, 2, f'{CONFIG}:smile', '--config.num_seeds=1'))
        assert any(path.name.startswith('jit_train_step') for path in kept.glob('*-cache'))
    assert_same_run(*found, range(1), 20)


def test_processes_with_different_cache_folders_disable_the_cache(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, 'is_shared', lambda folder: False)
    compile_cache.enable(str(tmp_path / 'c'))
    assert changed == {}


# --- imports, and what the host does ----------------------------------------------------------------------------------

IMPORTING = """
import sys, time
import mixjax.train
print(time.process_time(), *{name.partition('.')[0] for name in sys.modules})
"""


def test_imports_are_light():
    """Under two seconds on an idle machine; here of processor time, with room for a busy one."""
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, '-c', IMPORTING], cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        seconds, *modules = done.stdout.split()
        found.append(float(seconds))
    assert min(found) < 3.0
    heavy = {'sklearn', 'tensorflow', 'tensorflow_datasets', 'torch', 'matplotlib', 'grain', 'cv2', 'huggingface_hub'}
    assert not heavy & set(modules)


def slowly_greedy(score):
    """Pair after pair, as the definition says."""
    score, mapping = score.copy(), np.full(len(score), -1)
    for _ in range(len(score)):
        t, s = np.unravel_index(np.argmax(score), score.shape)
        mapping[t] = s
        score[t, :] = score[:, s] = -np.inf
    return mapping


@pytest.mark.parametrize('ties', [False, True])
def test_greedy_pairs_are_those_of_the_definition(ties):
    random = np.random.default_rng(0)
    for c, m in ((1, 1), (5, 5), (7, 30), (40, 60)):
        for _ in range(10):
            score = random.integers(0, 4, (c, m)).astype(float) if ties else random.standard_normal((c, m))
            score[:, random.permutation(m)[: m - c]] = -np.inf
            np.testing.assert_array_equal(class_pairing.greedy(score), slowly_greedy(score))


def test_means_in_parts_are_those_of_the_whole():
    random = np.random.default_rng(0)
    features, labels = random.standard_normal((50, 6)).astype(np.float32), random.integers(0, 5, 50)
    parts = ((features[i : i + 7], labels[i : i + 7]) for i in range(0, 50, 7))
    np.testing.assert_array_equal(class_pairing.centroids_of(parts, 6), class_pairing.centroids(features, labels, 6))


def test_digits_are_those_of_scikit_learn_without_its_import(monkeypatch):
    code = 'import sys; from mixjax.data.datasets import embedded; embedded.digits(); print("sklearn" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == 'False\n'
    read = embedded._digits()
    monkeypatch.setattr(Path, 'exists', lambda path: False)  # another layout of the package
    np.testing.assert_array_equal(read, embedded._digits())
