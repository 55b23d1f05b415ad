"""What was measured, on the page."""

import json

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.report import analysis_results, measured, plots, render, svg
from tests.support import fake
from tests.support.page import Page, parse

LABELS = ('finetune', 'lamix', 'xmixup')


def spread(mean, n=3):
    return {'mean': mean, 'std': 0.01 if n > 1 else None, 'n': n}


def store(folder, what, numbers, **arrays):
    path = folder / 'analysis.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    fake.dump(path, {**before, what: numbers})
    if arrays:
        np.savez(folder / f'analysis-{what}.npz', **arrays)


@pytest.fixture
def comparison(tmp_path):
    folder = fake.make_comparison(tmp_path / 'runs', {label: 0.8 + 0.01 * k for k, label in enumerate(LABELS)})
    rng = np.random.RandomState(0)
    for k, label in enumerate(LABELS):
        keys = ('label_train', 'label_test', 'feature_train', 'feature_test')
        lam = np.array([0.25, 0.75])
        numbers = {key: spread(0.1 * (k + 1)) for key in keys}
        numbers |= {'n': 3, 'settings': {'of': 'probabilities', 'scale': 'raw'}}
        store(folder / label, 'interpolation', numbers, lam=lam, **{key: rng.rand(3, 2) for key in keys})
        tails = {'values': [0.01, 0.02], 'settings': {'images': 40, 'part': 'test', 'of': 4}}
        store(folder / label, 'spectrum', tails, values=np.tile([1, 0.5, 0.02, 0.01], (3, 1)))
        store(folder / label, 'probe', {'auxiliary': spread(0.9), 'all': spread(0.5)})
        images = fake.pictures(0, (4,), 16, 1)
        store(folder / label, 'cam', {'area': spread(0.3)}, image=images, cam=rng.rand(4, 16, 16), label=np.arange(4))
    top = {'top': {'original': [0.6, 0.1, 0.1, 0.05, 0.05], 'mixed': [0.4, 0.2, 0.1, 0.05, 0.05]}}
    rows = {f'{kind}_{what}': rng.rand(3, 50) for kind in ('original', 'mixed') for what in ('target', 'global')}
    arrays = {'step': np.array([10, 20, 400]), 'bounds': np.array([0.04, 0.232]), 'mixed_global_max': rng.rand(3)}
    store(folder / 'lamix', 'targets', top, **rows, **arrays)
    plane = {'steps': [10, 20, 400], 'separation': [1.0, 2.0, 3.5], 'train accuracy': [0.5, 0.9, 1.0]}
    store(folder / 'lamix', 'plane', plane, codes=rng.rand(3, 30, 2) - 0.5, label=np.arange(30) % 3)
    curve = {'over': 'alpha', 'numbers': [0.125, 1, 64], 'logarithmic': True, 'curves': {'xmixup': [spread(0.8)] * 3}}
    best = {'xmixup': {'number': 1, **spread(0.8)}}
    store(folder, 'sweep', {**curve, 'others': {'finetune': spread(0.79)}, 'best': best})
    return folder


def test_every_measure_has_its_block_and_says_what_it_shows(comparison):
    page = Page(render([comparison]))
    titles = [text for where, text in page.texts if where == 'h2']
    shown = ['Accuracy against a setting', 'Interpolation loss', 'Tail singular values']
    shown += ['What it still knows of the source', 'Soft targets', 'Two units', 'Class activation maps']
    assert titles[2:9] == shown
    text = page.text()
    assert '0.200 \u00b1 0.010' in text and '90.0 \u00b1 1.0' in text and 'xmixup best at 1, 80.00 %' in text
    charts = [tag for tag in page.named('svg')]
    words = [tag for tag in page.tags if tag.name in ('title', 'desc')]
    described = {tag.attributes['id'] for tag in words if 'id' in tag.attributes}
    ids = [name for tag in charts for name in (tag.attributes['aria-labelledby'] or '').split()]
    assert len(ids) == len(set(ids)) and set(ids) == described and len(charts) >= 12
    for tag in page.named('img'):
        assert tag.attributes['alt']
    assert sum('its map' in (tag.attributes['alt'] or '') for tag in page.named('img')) == 12


def test_without_measures_the_page_is_unchanged(tmp_path):
    folder = fake.make_comparison(tmp_path / 'runs')
    assert measured.blocks(measured.Folder('x', {}, {}, {}, ()), 's', 1000) == {}
    assert 'Interpolation' not in render([folder])


def test_pictures_are_left_out_before_the_page_gets_too_large(comparison):
    from mixjax.report.read import read

    (folder,) = read([comparison])
    assert 'its map' in measured.blocks(folder, 's', 100_000)['cam'][1]
    small = measured.blocks(folder, 's', 3_000)['cam'][1]
    assert '<img' not in small and 'xmixup' in small


def test_a_sweep_has_its_values_in_one_chart(tmp_path):
    folder = tmp_path / 'sweep'
    folder.mkdir()
    for value in ('1', '3'):
        one = fake.make_run(folder / f'per_class={value}', 'finetune', [0.8, 0.81])
        tails = {'values': [0.01, 0.02], 'settings': {'images': 40, 'part': 'test', 'of': 4}}
        store(one, 'spectrum', tails, values=np.tile([1, 0.5, 0.02, 0.01], (2, 1)))
    fake.dump(folder / 'config.json', fake.config('finetune', (), 2, 16))
    runs = {f'per_class={value}': {} for value in '13'}
    fake.dump(folder / 'results.json', {'kind': 'sweep', 'steps': fake.STEPS, 'key': 'target.per_class', 'runs': runs})
    assert 's0-spectrum' not in render([folder / 'per_class=1', folder / 'per_class=3'])
    curve = {'over': 'target.per_class', 'numbers': [1, 3], 'logarithmic': False}
    curve |= {'curves': {'finetune': [spread(0.8), spread(0.9)]}, 'others': {}}
    store(folder, 'sweep', {**curve, 'best': {'finetune': {'number': 3, **spread(0.9)}}})
    page = Page(render([folder]))
    titles = [text for where, text in page.texts if where == 'h2']
    assert titles[:2] == ['Accuracy against a setting', 'Tail singular values']
    first = next(tag for tag in page.named('svg') if 's0-spectrum' in tag.attributes['aria-labelledby'])
    assert first.path[-1] == 'figure'
    assert 'finetune 1' in page.text() and 'finetune 3' in page.text()


def test_damaged_measures_are_reported(comparison):
    path = comparison / 'lamix' / 'analysis.json'
    found = json.loads(path.read_text())
    del found['cam']['area']
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match='measure cam again'):
        render([comparison])
    (comparison / 'lamix' / 'analysis-cam.npz').unlink()
    with pytest.raises(UserError, match='analysis-cam.npz cannot be read'):
        analysis_results.read(comparison / 'lamix').arrays('cam')
    for text in ('{', '[]', '{"cam": 3}'):
        path.write_text(text)
        with pytest.raises(UserError, match='analysis.json'):
            render([comparison])


def test_a_map_over_an_image_by_hand():
    image = np.full((1, 2, 2, 3), 100, np.uint8)
    shares = np.array([[[0.0, 1.0], [0.5, 0.0]]])
    found = measured.heated(image, shares)
    assert found.shape == (1, 2, 2, 3) and found.dtype == np.uint8
    assert found[0, 0, 0].tolist() == [100, 100, 100]
    assert found[0, 0, 1].tolist() == [216, 157, 25]  # a quarter of the grey, the rest amber
    assert measured.heated(image[..., :1], shares).tolist() == found.tolist()


TEXT = svg.Text('t', 'A <title>', 'A & description')


def test_bars_stand_on_the_axis_with_their_values():
    bars = [plots.Bars('a<b', 1, (0.5, 0.25)), plots.Bars('c', 2, (1.0, 0.0))]
    root = parse(plots.bar_chart(bars, ['no. 1', 'no. 2'], TEXT, 'mean'))
    titles = [path.findtext('title') for path in root.iter('path') if path.find('title') is not None]
    assert titles == ['a<b, no. 1: 0.500', 'a<b, no. 2: 0.250', 'c, no. 1: 1.000', 'c, no. 2: 0.000']
    shapes = [path.attrib['d'] for path in root.iter('path')]
    tops = [float(shape.split('V')[1].split('h')[0]) for shape in shapes if 'V' in shape]
    bottom = max(tops)
    assert tops[3] == bottom and (bottom - tops[0]) == pytest.approx((bottom - tops[2]) / 2, abs=0.1)


def test_strips_have_a_row_for_each_step_and_no_empty_cells():
    rows = [('100', [0.0, 0.5, 0.5]), ('400', [1.0, 0.0, 0.0])]
    root = parse(plots.strips(rows, (0.0, 0.2), TEXT, plots.Words('value', 'step')))
    cells = [path for path in root.iter('path') if path.attrib.get('class') == 'cell']
    assert len(cells) == 3 and [cell.attrib['opacity'] for cell in cells] == ['0.71', '0.71', '1.00']
    assert {'100', '400'} <= {text.text for text in root.iter('text')}


def test_points_are_inside_and_clouds_are_named():
    clouds = [plots.Cloud('cat', 1, (-1.0, -0.9), (0.5, 0.6)), plots.Cloud('dog', 2, (1.0,), (-1.0,))]
    root = parse(plots.scatter(clouds, TEXT))
    points = [(float(c.attrib['cx']), float(c.attrib['cy'])) for c in root.iter('circle')]
    assert len(points) == 3 and all(40 <= x <= 300 and 10 <= y <= 270 for x, y in points)
    assert [text.text for text in root.iter('text') if text.attrib.get('class') == 'over'] == ['cat', 'dog']


@pytest.mark.parametrize(
    ('mean', 'std', 'told'),
    [
        (0.30881, 0.00175, '0.3088 \u00b1 0.0018'),
        (107.23, 11.94, '107 \u00b1 12'),
        (0.976, 0.00141, '0.9760 \u00b1 0.0014'),
        (1.0, 0.0, '1 \u00b1 0'),
        (0.123456, None, '0.1235'),
        (1e9, 3e8, '1000000000 \u00b1 300000000'),
        (0.5, 1e-12, '0.500000 \u00b1 0.000000'),
    ],
)
def test_a_deviation_has_two_digits(mean, std, told):
    assert measured._spread({'mean': mean, 'std': std}) == told
