"""The depth of each parameter, by which its learning rate may decay."""

import jax
import jax.numpy as jnp
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models.net import depths
from tests.support.common import SHIPPED
from tests.support.networks import ALIKE, NETWORKS, is_vit


def paths_of(name, side=64, channels=3):
    net = models.build(name)
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, {'source': 5, 'target': 3}), image)
    leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
    return [tuple(key.key for key in path) for path, _ in leaves]


def by_module(paths, length=3):
    """{'stage1/block0': depth}, where all parameters of a module have one."""
    out = {}
    for path, depth in depths(paths).items():
        end = 2 if path[1] in ('stem', 'final') else length
        out.setdefault('heads' if path[0] == 'heads' else '/'.join(path[1:end]), set()).add(depth)
    assert all(len(each) == 1 for each in out.values())
    return {name: each.pop() for name, each in out.items()}


def test_resnet18_by_hand():
    """As timm counts it: the stem, eight blocks, the classifier."""
    assert by_module(paths_of('resnet18')) == {
        'stem': 0, 'stage1/block0': 1, 'stage1/block1': 2, 'stage2/block0': 3, 'stage2/block1': 4, 'stage3/block0': 5,
        'stage3/block1': 6, 'stage4/block0': 7, 'stage4/block1': 8, 'heads': 9,
    }  # fmt: skip


def test_glyphnet_by_hand():
    expected = {'stem': 0, 'stage1/block0': 1, 'stage2/block0': 2, 'stage3/block0': 3, 'heads': 4}
    assert by_module(paths_of('glyphnet', 16, 1)) == expected
    assert by_module(paths_of('glyphnet_plane', 16, 1)) == {**expected, 'final': 4}  # with the heads
    # Blocks are in the order of their numbers, not of their names, and stages without numbers are one layer each.
    assert by_module(paths_of('lenet', 32)) == {'stem': 0, 'stage1/conv': 1, 'stage2/fc': 2, 'stage3/fc': 3, 'heads': 4}
    dense = by_module(paths_of('densenet121'))
    assert (dense['stage1/block0'], dense['stage1/block5'], dense['stage2/block2'], dense['stage2/block10']) == (
        1, 6, 9, 17,
    )  # fmt: skip
    assert dense['stage2/transition'] == dense['stage2/block0'] == 7
    convnext = by_module(paths_of('convnextv2_atto'))
    assert convnext['stem'] == 0 and convnext['stage1/block1'] == 2 and convnext['stage3/block5'] == 10
    assert convnext['stage2/downsample'] == convnext['stage2/block0'] == 3
    assert convnext['final'] == convnext['heads'] == 13
    assert dense['stage4/block15'] == 58 and dense['final'] == dense['heads'] == 59


def test_vision_transformers_as_timm_counts_them():
    """The patches and tokens, 12 blocks, and the classifier together with the last LayerNorm and the pooling."""
    for name in ('vit_small_patch14_reg4_dinov2', 'vit_base_patch32_siglip_256', 'vit_small_patch16_dinov3'):
        side = NETWORKS[name][1][1]
        blocks = {f'stage{1 + i // 3}/block{i % 3}': 1 + i for i in range(12)}
        assert by_module(paths_of(name, side)) == {'stem': 0, **blocks, 'final': 13, 'heads': 13}
    uneven = by_module(paths_of('vit_so400m_patch14_siglip_gap_224', 224))
    assert [uneven[f'stage{i}/block{b}'] for i, b in ((1, 6), (2, 0), (3, 6), (4, 0), (4, 5))] == [7, 8, 21, 22, 27]


@pytest.mark.parametrize('name', [name for name in SHIPPED if name not in ALIKE])
def test_every_network_has_a_depth_for_each_parameter(name):
    side = NETWORKS[name][1][1] if is_vit(name) else 32
    paths = paths_of(name, *((16, 1) if name.startswith('glyphnet') else (side, 3)))
    found = depths(paths)
    assert set(found) == set(paths)
    most = max(found.values())
    assert set(found.values()) == set(range(most + 1))
    assert {depth for path, depth in found.items() if path[0] == 'heads'} == {most}
    assert {depth for path, depth in found.items() if path[1] == 'stem'} == {0}
    blocks = {path[1:3] for path in paths if path[0] == 'backbone' and path[2].startswith('block')}
    single = {path[1] for path in paths if path[1].startswith('stage')} - {stage for stage, _ in blocks}
    assert most == 1 + len(blocks) + len(single)


def test_other_ways_to_name_the_blocks():
    heads = [('heads', 'target', 'kernel')]
    inside = ('attention', 'kernel'), ('norm2', 'scale')
    for blocks in (
        [('backbone', 'stage1', f'block{i}', *rest) for i in range(12) for rest in inside],
        [('backbone', 'stage1', 'blocks', str(i), *rest) for i in range(12) for rest in inside],
        [('backbone', f'block{i}', *rest) for i in range(12) for rest in inside],
        [('backbone', 'stage1', f'EncoderBlock_{i + 1}', *rest) for i in range(12) for rest in inside],
    ):
        paths = [('backbone', 'stem', 'position'), *blocks, ('backbone', 'final', 'norm', 'scale'), *heads]
        found = depths(paths)
        assert [found[path] for path in blocks] == [i + 1 for i in range(12) for _ in inside]
        assert (found[paths[0]], found[paths[-2]], found[heads[0]]) == (0, 13, 13)
    downsampled = [('backbone', 'stage2', name, 'kernel') for name in ('downsample', 'block1', 'block2')]
    assert list(depths(downsampled).values()) == [0, 0, 1]
    assert depths([('backbone', 'stage1', 'w'), *heads]) == {('backbone', 'stage1', 'w'): 0, heads[0]: 1}
    assert depths(heads) == {heads[0]: 0}


def test_part_without_a_place_is_refused():
    with pytest.raises(UserError, match="part 'neck' says how deep it is; name the parts of the backbone stem, stage1"):
        depths([('backbone', 'neck', 'kernel'), ('heads', 'target', 'kernel')])
