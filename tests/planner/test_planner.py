"""Will it fit: what is said of a program is what its compiler says, on any number of devices."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import models
from mixjax.commands import cli
from mixjax.errors import UserError
from mixjax.planner import arguments, assumed, compiled, hlo, slices, tables, verdict
from mixjax.train import mesh, placement, program, seed_batch, seeds
from tests.support.common import ROOT, Tiny, environment
from tests.support.toy import settings
from tests.support.variants import VARIANTS


def long(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def planned(config, count=8):
    """The plans of a config on virtual devices."""
    on = slices.find(slices.parse(f'cpu:{count}'))
    shared = compiled.build_shared(config, on)
    return on, list(compiled.plans(config, on, config.method.name, shared, lambda text: None))


def toy(method, trials=1, **changes):
    """The toy task of the contract, on all devices there are."""
    return settings(method, devices=0, num_seeds=trials, **changes)


@pytest.fixture(scope='module')
def mixed():
    """Plans of one method whose batch has partners, with 1 group and with as many as devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
        return {groups: planned(toy('mixup', mix={'groups': groups})) for groups in (1, 8)}


# --- topologies -------------------------------------------------------------------------------------------------------


def test_topology_parsing():
    assert slices.parse('v5e:4x4') == ('v5e:4x4', 'v5e', (4, 4)) and slices.parse('v5e:4x4').count == 16
    assert slices.parse('v4:2x2x4').count == 16 and slices.parse('cpu:8').count == 8


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('v5e', 'is not KIND:SIZE'),
        ('v5e-16', 'is not KIND:SIZE'),
        ('v5e:4x', 'is not KIND:SIZE'),
        ('v5:4x4', 'unknown kind'),
        ('v5e:3x3', 'one of 1x1, 2x2'),
        ('v5e:2x2x1', 'one of 1x1, 2x2'),
        ('v5p:4x4', '3 sides, such as 4x4x4'),
        ('v4:0x2x2', '3 sides'),
        ('cpu:0', 'a number from 1'),
        ('cpu:2x2', 'a number from 1'),
    ],
)
def test_topology_refuses_wrong_names(name, words, capsys):
    assert cli.run('plan', ['--config=quickstart', f'--topology={name}']) == 2
    told = capsys.readouterr().err
    assert words in told and len(told.splitlines()) == 1


def test_topology_refuses_more_virtual_devices_than_jax_has():
    with pytest.raises(UserError, match='8 virtual devices'):
        slices.find(slices.parse('cpu:9'))


def test_environment_variables_for_virtual_devices(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=8 --xla_cpu_x=1')
    found = slices.environment(slices.parse('cpu:64'))
    assert found['XLA_FLAGS'].split() == ['--xla_cpu_x=1', '--xla_force_host_platform_device_count=64']
    assert slices.environment(slices.parse('v5e:2x2'))['JAX_PLATFORMS'] == 'cpu'


def test_plan_without_libtpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(slices.importlib.util, 'find_spec', lambda name: None)
    assert cli.run('plan', ['--config=quickstart', '--topology=v5e:2x2']) == 2
    told = capsys.readouterr().err
    assert "pip install 'mixjax[tpu-plan]'" in told and '--topology=cpu:8' in told and len(told.splitlines()) == 1


def test_libtpu_version_mismatch_warns(monkeypatch):
    monkeypatch.setattr(slices.importlib.util, 'find_spec', lambda name: object())
    jax_version, wanted = slices.fitting()
    assert jax_version == jax.__version__ and wanted.startswith('0.0.')
    known = {'jax': jax_version, 'libtpu': wanted.replace('*', '7')}
    monkeypatch.setattr(slices.importlib.metadata, 'version', known.__getitem__)
    assert slices.libtpu() == ''
    known['libtpu'] = '0.0.1'
    assert wanted in slices.libtpu() and '0.0.1' in slices.libtpu()


# --- the text of a program --------------------------------------------------------------------------------------------

LINES = """
  %all-reduce.1 = (f32[3,3,8]{2,1,0:T(8,128)}, bf16[10]{0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%r, metadata={op_name="jit(one)/transpose(jvp(Network))/conv"}
  %all-gather-start.2 = (f32[4,6]{1,0}, f32[16,6]{1,0}) all-gather-start(%c), replica_groups=[1,4]<=[4], dimensions={0}, metadata={op_name="jit(one)/jvp(partner)/vmap()/gather"}
  %ag.3 = ((u8[2], s32[2]), (u8[8], s32[8])) all-gather-start(%c, %d), replica_groups=[2,2]<=[2,2]T(1,0), metadata={op_name="jit(one)/partners/gather"}
  %all-gather-done = f32[16,6]{1,0} all-gather-done(%all-gather-start.2)
  %all-reduce-start.5 = f32[] all-reduce-start(%e), replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, to_apply=%r
  %collective-permute.6 = pred[8]{0} collective-permute(%f), source_target_pairs={{0,2},{2,0}}
  %fusion = f32[8] fusion(%all-reduce.1), kind=kLoop, calls=%all-reduce
"""  # noqa: E501


def test_collectives_parsed_from_hlo():
    found = hlo.collectives(LINES)
    assert [one.kind for one in found] == ['all-reduce', 'all-gather', 'all-gather', 'all-reduce', 'collective-permute']
    assert [one.bytes for one in found] == [72 * 4 + 20, 96 * 4, 8 + 32, 4, 8]
    assert found[0].groups == ((0, 1), (2, 3)) and found[1].groups == ((0, 1, 2, 3),)
    assert found[2].groups == ((0, 2), (1, 3)) == found[3].groups and found[4].groups == ((0, 2), (2, 0))
    assert hlo.table(found) == {
        'all-reduce': (2, 312), 'all-gather': (2, 424), 'reduce-scatter': (0, 0),
        'collective-permute': (1, 8), 'all-to-all': (0, 0),
    }  # fmt: skip
    assert hlo.in_scope(found, 'partner') == [found[1]]


LOOP = """
HloModule one, is_scheduled=true

%inner (p: f32[]) -> f32[] {
  %ar = f32[5]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%sum
}
%outer.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %f = f32[5]{0} fusion(%p), kind=kLoop, calls=%inner
}
%other (p: f32[]) -> f32[] {
  %ag = f32[7]{0} all-gather(%p), replica_groups={{0,1}}
}
%nine (p: s32[]) -> pred[] {
  %n = s32[]{:T(128)} constant(9)
  ROOT %lt = pred[]{:T(512)} compare(%p, %n), direction=LT
}
%counted (p: f32[]) -> f32[] {
  %rs = f32[2]{0} reduce-scatter(%p), replica_groups={{0,1}}
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%p), condition=%c, body=%outer.1, backend_config={"known_trip_count":{"n":"3"}}
  %x = (s32[], f32[4]) while(%p), condition=%c, body=%other
  %y = (s32[], f32[4]) while(%p), condition=%nine, body=%counted
  %ar = f32[2]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%sum
}
"""


def test_collectives_in_loops_are_multiplied_by_trip_count():
    table = hlo.table(hlo.collectives(LOOP))
    assert table['all-reduce'] == (4, 3 * 20 + 8) and table['all-gather'] == (1, 28)
    assert table['reduce-scatter'] == (9, 9 * 8)


def test_collectives_between_mesh_rows():
    found = hlo.collectives(LINES)
    two = mesh.make(4, trials=2, devices=4)
    assert two.devices.shape == (2, 2)
    assert hlo.between_rows(found, two) == [found[1], *found[2:]]
    assert hlo.between_rows(found, mesh.make(4, devices=4)) == []
    # Whose groups cannot be read counts as everybody's.
    unknown = hlo.collectives('%x = f32[] all-reduce(%y), replica_groups=new')
    assert hlo.between_rows(unknown, two) == unknown


def test_argument_bytes_parsed_from_hlo():
    text = 'HloModule x, entry_computation_layout={(u8[2,5]{1,0:T(8,128)(4,1)}, (f32[3], bf16[]))->f32[7]{0}}, y'
    assert hlo.argument_bytes(text) == 10 + 12 + 2


# --- what is assumed is what a run would have -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'variant', ['finetune', *long('xmixup two heads', 'smile', 'cotuning', 'delta', 'regsl self-labelling')]
)
def test_planned_shapes_match_a_run(variant, tmp_path, monkeypatch):
    """Same tree, types, shapes and layout as the arrays of a run on the same devices."""
    if variant == 'finetune':  # as if its epochs were long
        monkeypatch.setattr(placement, 'LONG', 1)
    config = toy({'name': variant} | VARIANTS[variant], trials=2)
    on = slices.find(slices.parse('cpu:8'))
    calls = []
    (plan,) = compiled.plans(config, on, variant, compiled.build_shared(config, on), calls.append)
    built = program.build(config)
    assert plan.program.mesh == built.mesh and plan.program.mesh.devices.shape == (2, 4)
    opened = [seeds.open_seed(built, seed, tmp_path) for seed in (0, 1)]
    placed, ts = seed_batch.place_seeds(built, opened), seed_batch.stack_states(built, [one.state for one in opened])
    lowered = built.advance(1).lower(ts, built.shared.start, placed.frozen, placed.inputs)
    assert ('orders' in placed.inputs) == (variant == 'finetune')
    memory = lowered.compile().memory_analysis()
    found = plan.compiled
    assert (found.arguments, found.outputs, found.alias, found.temporaries, found.code) == (
        memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.alias_size_in_bytes,
        memory.temp_size_in_bytes, memory.generated_code_size_in_bytes,
    )  # fmt: skip
    here = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(ts.params))
    assert plan.params == plan.array_bytes['parameters'] == here
    images = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(placed.inputs))
    assert plan.where.train == 'resident' and plan.array_bytes['training images'] == images
    placed.close()


def test_memory_parts_sum_to_the_argument_bytes(mixed):
    for _, (plan,) in mixed.values():
        rows = verdict.memory(plan)
        arrays = plan.array_bytes
        named = sum(arrays.values()) - arrays['pretrained network'] - arrays['test images']
        assert plan.compiled.arguments == named  # this method does not use the pretrained network
        assert plan.compiled.padding == 0
        assert sum(rows.values()) == sum(plan.array_bytes.values()) + plan.compiled.temporaries + (
            plan.compiled.outputs - plan.compiled.alias
        )


def test_plan_reads_no_images_and_no_weights():
    """ResNet-50, ImageNet and a network of the hub, without any of them; the numbers are the catalogue's."""
    config = config_lib.load('xmixup_dogs', [('batch_size', '8'), ('num_seeds', '1')])
    on = slices.find(slices.parse('cpu:8'))
    ground, told = compiled.build_shared(config, on)
    assert len(ground.sets.train.labels) == 12_000 and len(ground.sets.source.labels) == 1_281_167
    assert ground.sets.source.read(np.arange(5)).shape == (5, 256, 256, 3)
    assert sum(x.size for x in jax.tree.leaves(ground.start['params'])) == 25_557_032
    assert any('by the catalogue' in line for line in told)
    built = program.build(config, ground)
    data, made = assumed.prepared(built)
    assert len(data.target.labels) == 12_000 and len(made.frozen['chosen']) == 120
    # One round of pairing, of classes of the mean size.
    assert abs(len(made.draw.rows) - 120 * 1281.167) < 60
    state = arguments.state(built, data, made)
    assert state.params['heads']['joint']['bias'].shape == (240,)


def test_plan_with_splits_file(tmp_path):
    rows = {'0': list(range(30)), '1': list(range(25))}
    (tmp_path / 'splits.json').write_text(
        json.dumps({'target': 'cub200', 'labelled rows': rows, 'classes': ['a', 'b']})
    )
    config = config_lib.base()
    config.target.name, config.target.splits = 'cub200', str(tmp_path / 'splits.json')
    found = assumed.without_splits(config.lock())
    assert (found.target.splits, found.target.images, found.target.classes) == ('', 30, 2.0)
    assert config.target.splits


# --- collectives ------------------------------------------------------------------------------------------------------


def test_mix_groups_remove_partner_traffic(mixed):
    (_, (apart,)), (on, (together,)) = mixed[8], mixed[1]
    assert {one.kind for one in apart.compiled.collectives} == {'all-reduce'}
    assert verdict.cost(apart) == 0 and verdict.judge(apart, on).advice == []
    # With one group the images and the labels of the whole batch come to every device: 16 of 16 x 16 x 1 floats,
    # and their one-hot labels.
    found = hlo.in_scope(together.compiled.collectives, 'partner')
    assert {one.kind for one in found} == {'all-gather'}
    images, labels = 16 * 16 * 16 * 4, 16 * 10 * 4
    assert verdict.cost(together) == images + labels
    (advice,) = verdict.judge(together, on).advice
    assert 'config.mix.groups=1 costs 2 all-gather' in advice and '--config.mix.groups=8' in advice
    rest = [one.kind for one in together.compiled.collectives if one not in found]
    assert rest == [one.kind for one in apart.compiled.collectives]


@pytest.mark.parametrize('variant', ['smile', *long('xmixup', 'cotrain', 'lamix', 'manifold_mixup')])
def test_no_images_between_devices(variant):
    """With groups for the devices nothing but sums: gradients, statistics of BatchNorm, the loss and its parts."""
    config = toy({'name': variant} | VARIANTS[variant], mix={'groups': 8})
    _, (plan,) = planned(config)
    assert plan.program.mesh.shape['data'] == 8
    sums = plan.compiled.collectives
    assert {one.kind for one in sums} == {'all-reduce'}
    image = 16 * 16 * 1
    ranks = [sizes for one in sums for _, sizes in one.shapes if sizes[-3:] == (16, 16, 1)]
    assert not ranks and plan.params > image
    # Forward and backward, a mean and a variance of 8 channels each for 2 layers, the loss, its norm and metrics.
    statistics = 2 * 2 * 3 * 8 * 4 + 16 * 4
    passes = 2 if variant in ('lamix', 'smile') else 1
    assert plan.params <= sum(one.bytes for one in sums) <= plan.params + passes * statistics


@pytest.mark.slow
def test_mix_shards_remove_source_traffic():
    many = {'synthetic': {'per_class': 40, 'side': 16}, 'feed': 'resident'}
    on, (plan,) = planned(toy('xmixup', mix={'groups': 8, 'shards': 8}, **many))
    assert {one.kind for one in plan.compiled.collectives} == {'all-reduce'}
    config = toy('xmixup', mix={'groups': 8}, **many)
    none = on._replace(chip=slices.CHIPS['v5e']._replace(free=0.0))  # so nothing is compiled
    (whole,) = compiled.plans(config, none, 'xmixup', compiled.build_shared(config, on), lambda text: None)
    target = 400 * (256 + 4)
    dealt, every = (one.array_bytes['training images'] - target for one in (plan, whole))
    assert every > 20_000 and dealt < 0.25 * every  # an eighth of the pixels; labels and tables are everywhere


@pytest.mark.parametrize('method', ['finetune', *long('smile')])
def test_seeds_side_by_side_add_no_traffic_and_no_work(method):
    on, (three,) = planned(toy(method, trials=3), 6)
    _, (one,) = planned(toy(method), 2)
    assert three.program.mesh.devices.shape == (3, 2) and one.program.mesh.devices.shape == (1, 2)
    assert hlo.between_rows(three.compiled.collectives, three.program.mesh) == []
    assert three.compiled.collectives and all(one.groups for one in three.compiled.collectives)
    assert abs(three.compiled.flops / one.compiled.flops - 1) < 0.02
    assert three.compiled.temporaries <= 1.02 * one.compiled.temporaries
    assert tables.data(three, on)['between seeds'] == 0 and '  between seeds none' in tables.text(three, on)


SCALING = """
import json
from mixjax import config
from mixjax.planner import compiled, slices
lines = []
for count in (4, 64):
    found = config.load('quickstart', [('method.name', 'finetune'), ('num_seeds', '1'), ('batch_size', '64')])
    on = slices.find(slices.parse(f'cpu:{count}'))
    (plan,) = compiled.plans(found, on, 'finetune', compiled.build_shared(found, on), lambda text: None)
    sums = [[one.kind, one.bytes] for one in plan.compiled.collectives]
    lines.append([plan.program.mesh.shape['data'], plan.params, sums])
print(json.dumps(lines))
"""


@pytest.mark.slow
def test_collectives_of_4_and_64_devices():
    """As many, of as many bytes: the gradients', and less than 1 % more besides the statistics of BatchNorm."""
    env = {**environment(), 'XLA_FLAGS': '--xla_force_host_platform_device_count=64'}
    done = subprocess.run(
        [sys.executable, '-c', SCALING], cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    (four, params, few), (all_of_them, _, many) = json.loads(done.stdout)
    assert (four, all_of_them) == (4, 64)
    assert sorted(few) == sorted(many) and {kind for kind, _ in few} == {'all-reduce'}
    net = models.build('glyphnet')
    stats = jax.eval_shape(lambda key: net.init(key, jax.numpy.zeros((1, 16, 16, 1)), {}), jax.random.key(0))
    channels = sum(x.size for x in jax.tree.leaves(stats['batch_stats'])) // 2
    # Of each channel: mean and mean square, their gradients; scale and bias are parameters.
    assert params < sum(size for _, size in few) < 1.01 * params + 4 * 4 * channels


# --- the command ------------------------------------------------------------------------------------------------------

COMPARED = """
from mixjax.config import read

def get_config():
    config = read('quickstart')
    config.compare = {name: {'name': name} for name in ('finetune', 'seqtrain')}
    config.model.name, config.model.weights = 'tiny', 'random://160'
    config.num_seeds, config.batch_size = 2, 16
    return config
"""


@pytest.mark.slow
def test_plan_of_a_comparison_has_a_table_per_method(tmp_path, capsys):
    (tmp_path / 'mine.py').write_text(COMPARED)
    assert cli.run('plan', [f'--config={tmp_path}/mine.py', '--topology=cpu:4', '--json']) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert [one['label'] for one in found] == ['finetune', 'seqtrain, first stage', 'seqtrain']
    assert all(one['mesh'] == {'trial': 2, 'data': 2} and one['between seeds'] == 0 for one in found)
    assert all(one['collectives']['all-gather'] == {'count': 0, 'bytes': 0} for one in found)
    assert [one['examples'] for one in found][::2] == [30, 30] and found[1]['examples'] > 100
    assert found[0]['fits'] is None and 'optimal_seconds' not in told.out
    assert 'finetune: compiling for cpu:4' in told.err and 'minutes' in told.err
    assert tmp_path.joinpath('mine.py').exists() and len(list(tmp_path.iterdir())) == 1  # no trace


def test_plan_text_tables(mixed):
    on, (plan,) = mixed[1]
    lines = tables.text(plan, on).splitlines()
    assert lines[0] == 'mixup on cpu:8'
    assert 'one seed on 8' in lines[1] and '30' not in lines[1]
    rows = {line[:36].strip(): line[36:].strip() for line in lines if line.startswith('  ')}
    for name, size in verdict.memory(plan).items():
        assert rows[name] == f'{size / 1e6:,.2f}'
    for kind in hlo.KINDS:
        count, size = hlo.table(plan.compiled.collectives)[kind]
        (line,) = [line for line in lines if line.split()[:1] == [kind]]
        assert line.split()[1:] == [str(count), f'{size / 1e6:,.2f}']
    assert any('GFLOP' in line for line in lines) and 'chip-hours' not in '\n'.join(lines)


def test_plan_reports_idle_devices():
    on, (plan,) = planned(toy('finetune', trials=3), 8)
    assert plan.program.mesh.devices.shape == (3, 2)
    assert '2 have nothing to do' in tables.text(plan, on)


def test_plan_refuses_indivisible_batch(tmp_path, capsys):
    words = ['--config=quickstart', '--topology=cpu:4', '--config.num_seeds=1', '--config.batch_size=7']
    assert cli.run('plan', words) == 2
    told = capsys.readouterr().err.splitlines()
    assert 'a batch of 7 cannot be split over the 4 devices' in told[-1] and not any(
        'Traceback' in x for x in told
    )


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        ([], '--config is missing'),
        (['--config=quickstart'], '--topology is missing'),
        (['--config=nothing', '--topology=cpu:8'], "no config 'nothing'"),
        (['--config=quickstart', '--topology=cpu:8', '--workdir=x'], 'unknown flag --workdir'),
        (['--config=quickstart', '--topology=cpu:8', '--config.bach_size=3'], 'bach_size'),
    ],
)
def test_plan_refuses_wrong_input(words, part, capsys):
    assert cli.run('plan', words) == 2
    told = capsys.readouterr().err
    assert part in told and len(told.splitlines()) == 1


# --- does it fit ------------------------------------------------------------------------------------------------------


def on_chips(plan, **free):
    """A plan as if its virtual devices were chips of v5e, with `free` GiB of memory."""
    chip = slices.CHIPS['v5e']._replace(**free)
    return plan, slices.Slice('v5e:2x4', list(plan.program.mesh.devices.flat), chip)


def test_verdict_on_memory(mixed):
    _, (plan,) = mixed[1]
    used = sum(verdict.memory(plan).values())
    fits = verdict.judge(*on_chips(plan, free=1.001 * used / slices.GIB))
    assert fits.fits is True and fits.used == used and fits.sentence.startswith('fits')
    short = verdict.judge(*on_chips(plan, free=0.999 * used / slices.GIB))
    assert short.fits is False and short.sentence.startswith('does not fit')
    words = ' '.join(short.advice)
    assert '--config.model.dtype=bfloat16' in words and '--config.accumulate=2' in words and 'batch_size' in words
    assert 'a slice of 16 or more gives each seed 16, with 1 images each' in words


def test_advice_names_images_first():
    config = toy('xmixup', feed='resident', model={'dtype': 'bfloat16'}, synthetic={'per_class': 40, 'side': 16})
    on = slices.find(slices.parse('cpu:4'))
    small = slices.CHIPS['v5e']._replace(free=100_000 / slices.GIB)
    asked = []
    (plan,) = compiled.plans(config, on._replace(chip=small), 'xmixup', compiled.build_shared(config, on), asked.append)
    assert plan.compiled is None and not asked and 'nothing was compiled' in plan.refused
    found = verdict.judge(plan, on._replace(chip=small))
    assert found.fits is False and found.advice[0].startswith('--config.feed=stream')
    assert any(line.startswith('--config.mix.shards=4') for line in found.advice)
    assert not any('bfloat16' in line for line in found.advice)
    assert 'does not fit' in tables.text(plan, on._replace(chip=small))
    assert tables.data(plan, on._replace(chip=small))['fits'] is False


@pytest.mark.slow
def test_plan_streams_images_by_chip_memory():
    """`auto` looks at the memory of the chip, not at that of this machine."""
    config = toy('xmixup', synthetic={'per_class': 40, 'side': 16})
    on = slices.find(slices.parse('cpu:4'))
    chip = slices.CHIPS['v5e']._replace(free=200_000 / slices.GIB)
    shared = compiled.build_shared(config, on)
    (plan,) = compiled.plans(config, on._replace(chip=chip), 'xmixup', shared, lambda text: None)
    assert plan.where.train == plan.where.test == 'stream'
    # Three calls of a step: 4 of the 16 images and labels of the target and of the source, places and partners.
    a_step = 2 * 4 * (256 + 4) + 4 * 4 + 16 * 4 + 4
    assert plan.array_bytes['training images'] == 3 * a_step
    assert plan.compiled is not None and {one.kind for one in plan.compiled.collectives} == {'all-reduce'}


def test_plan_reports_compiler_errors(monkeypatch):
    def lower(*_):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Ran out of memory, used 20.1G of 15.75G hbm.\nmore')

    made = program.build_program
    monkeypatch.setattr(program, 'build_program', lambda *some: made(*some)._replace(advance=lower))
    on, (plan,) = planned(toy('finetune'))
    assert plan.compiled is None
    assert plan.refused == 'the compiler: Ran out of memory, used 20.1G of 15.75G hbm.'
    monkeypatch.setattr(program, 'build_program', lambda *some: made(*some)._replace(advance=other))
    with pytest.raises(UserError, match='refused the program: INTERNAL: strange'):
        planned(toy('finetune'))


def other(*_):
    raise jax.errors.JaxRuntimeError('INTERNAL: strange\nand more')


def test_hours_of_a_run_are_estimated(mixed):
    _, (plan,) = mixed[1]
    work = verdict.work(*on_chips(plan))
    chip = slices.CHIPS['v5e']
    assert work.images == 2 and work.least == plan.compiled.flops / chip.flops
    assert work.likely == max(work.least, plan.compiled.accessed / chip.bandwidth)
    # 40 steps of one seed on 8 chips.
    np.testing.assert_allclose(work.hours, np.array([work.least, work.likely]) * 40 * 8 / 3600)


# --- TPU --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('method', ['mixup', 'xmixup'])
def test_plan_compiles_for_a_tpu_slice(method, tmp_path):
    """The glyph network on v5e:2x2 and v5e:4x4: it fits, and no image goes between chips unless groups say so."""
    pytest.importorskip('libtpu', reason="libtpu is not installed: pip install 'mixjax[tpu-plan]'")
    found = []
    for name, groups in (('2x2', 16), ('4x4', 16), ('4x4', 1)):
        words = ['--config=quickstart', f'--topology=v5e:{name}', '--json', f'--config.method.name={method}',
                 '--config.num_seeds=1', '--config.batch_size=64', f'--config.mix.groups={groups}']  # fmt: skip
        done = subprocess.run(
            [sys.executable, '-m', 'mixjax', 'plan', *words],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert 'TPU' not in done.stderr and 'Traceback' not in done.stderr
        found += json.loads(done.stdout)
    small, large, mixed = found
    assert [one['mesh']['data'] for one in found] == [4, 16, 16] and all(one['fits'] for one in found)
    sums = [one['collectives']['all-reduce'] for one in (small, large)]
    assert all(
        one['parameters'] <= each['bytes'] < 1.01 * one['parameters'] + 50_000
        for one, each in zip((small, large), sums, strict=True)
    )
    # The compiler may gather logits of so small a head, (64, 10) or (64, 20) floats, and it does. No image goes.
    others = [one for plan in (small, large) for one in plan['not sums']]
    assert all(one['bytes'] <= 64 * 20 * 4 and sizes[-1] in (10, 20) for one in others for _, sizes in one['shapes'])
    assert large['partners']['bytes'] == 0
    assert (mixed['partners']['bytes'] >= 64 * 16 * 16 * 2) == (method == 'mixup')
    assert small['available'] == int(15.75 * 2**30)
