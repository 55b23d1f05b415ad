"""The page: what it says, what it may hold, and that it is always the same."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.report import html, render, write
from mixjax.report import page as frame
from tests.support import fake
from tests.support.page import Page, decode

EVIL = '<script>alert(1)</script>'


@pytest.fixture(scope='module')
def quickstart(tmp_path_factory):
    return fake.make_comparison(tmp_path_factory.mktemp('runs') / 'quickstart')


@pytest.fixture(scope='module')
def page(quickstart):
    return Page(render([quickstart]))


def test_the_answer_comes_first_and_all_blocks_follow(page):
    assert [text for where, text in page.texts if where == 'h1'] == ['5 methods on digits']
    first = next(text for where, text in page.texts if where == 'p' and 'classes' not in text)
    assert first.startswith('xmixup is ahead of finetune by')
    titles = [text for where, text in page.texts if where == 'h2']
    assert titles == [
        'Accuracy', 'Learning curves', 'Class pairs', 'What the network saw', 'Settings', 'Repeat it',
    ]  # fmt: skip


def test_numbers_of_the_results_are_on_the_page(page, quickstart):
    results = json.loads((quickstart / 'results.json').read_text())
    text = page.text()
    for label, run in results['runs'].items():
        accuracy = run['accuracy']
        assert f'{label} {100 * accuracy["mean"]:.2f} \u00b1 {100 * accuracy["std"]:.2f} 3' in text
    for difference in results['differences'].values():
        assert f'{100 * difference["mean"]:+.2f} \u00b1 {100 * difference["stderr"]:.2f}' in text
    assert '3 \u2192 ze 0.84' in text
    assert fake.environment()['command'] in text
    assert 'embedded://glyphnet' in text and '2 \u00d7 cpu' in text


def test_page_has_no_external_resources_or_scripts(page):
    assert not page.named('script') and not page.named('link') and not page.named('iframe')
    for tag in page.tags:
        for name, value in tag.attributes.items():
            assert not name.startswith('on')
            if name in ('src', 'href'):
                assert value is not None and value.startswith(('data:image/png;base64,', '#'))
    style = next(text for where, text in page.texts if where == 'style')
    assert 'url(' not in style and '@import' not in style
    policy = next(tag.attributes for tag in page.named('meta') if 'http-equiv' in tag.attributes)
    assert policy['content'] == frame.POLICY


def test_links_lead_somewhere_and_ids_are_unique(page):
    ids = [tag.attributes['id'] for tag in page.tags if 'id' in tag.attributes]
    assert len(set(ids)) == len(ids)
    targets = [tag.attributes['href'][1:] for tag in page.named('a')]
    assert targets and set(targets) <= set(ids)
    for tag in page.tags:
        assert set((tag.attributes.get('aria-labelledby') or '').split()) <= set(ids)


def test_pictures_and_charts_have_words(page):
    assert len(page.named('img')) == (8 + 4 * 3 * 8) + (10 + 11)
    assert all(tag.attributes['alt'] for tag in page.named('img'))
    assert 'an example of the source class ze' in [tag.attributes['alt'] for tag in page.named('img')]
    charts = page.named('svg')
    assert len(charts) == 3 and all(chart.attributes['role'] == 'img' for chart in charts)
    assert sum(tag.path[-1] == 'svg' for tag in page.named('title')) == 3
    assert sum(tag.path[-1] == 'svg' for tag in page.named('desc')) == 3


def test_what_scrolls_can_be_reached_by_keyboard(page):
    boxes = [tag.attributes for tag in page.tags if tag.name == 'pre' or tag.attributes.get('class') == 'scroll']
    assert len(boxes) > 4
    assert all(box['tabindex'] == '0' and box['role'] == 'region' and box['aria-label'] for box in boxes)
    headers = page.named('th')
    assert headers and all(tag.attributes['scope'] in ('row', 'col') for tag in headers)


def test_pictures_are_the_ones_of_the_folder(page, quickstart):
    source = np.load(quickstart / 'xmixup' / 'pairs.npz')['source']
    tag = next(tag for tag in page.named('img') if tag.attributes['alt'] == 'an example of the source class ze')
    shown = decode(base64.b64decode(tag.attributes['src'].partition(',')[2]))
    np.testing.assert_array_equal(shown, source[3, 0])
    assert tag.attributes['class'] == 'pixels' and tag.attributes['width'] == '16'


def test_rows_of_samples_depend_on_what_the_network_saw(page):
    alts = [tag.attributes['alt'] for tag in page.named('img')]
    kinds = [alt.partition(',')[0] for alt in alts if ', label' in alt]
    assert kinds.count('seen') == 5 * 8  # every method
    assert kinds.count('its partner') == 3 * 8  # mixed within the batch: lamix, mixup, smile
    assert kinds.count('source image') == 8  # xmixup
    assert kinds.count('target image') == 4 * 8  # finetune saw its target images as they are


def test_the_same_files_give_the_same_bytes_anywhere(quickstart, tmp_path):
    copy = shutil.copytree(quickstart, tmp_path / 'elsewhere')
    (copy / 'finetune' / 'timing.jsonl').write_text('{"seed": 0, "step": 1, "seconds": 0.123}\n')
    assert render([copy]) == render([quickstart])
    assert 'elsewhere' not in render([copy]) and str(tmp_path) not in render([copy])


@pytest.fixture(scope='module')
def evil(tmp_path_factory):
    """Names that would break out of text, attributes, JSON and SVG."""
    names = (EVIL, '"><img src=x onerror=alert(1)>', "'&quot;&lt;", '</style></svg></title>')
    folder = tmp_path_factory.mktemp('evil') / 'run'
    labels = {'base"line\' onload="x': 0.8, 'x<b>&amp;': 0.9}
    fake.make_comparison(folder, labels, seeds=2, classes=names, sources=names[::-1])
    config = json.loads((folder / 'config.json').read_text())
    config['target']['name'] = EVIL
    config['model']['weights'] = f'</code></pre>{EVIL}'
    fake.dump(folder / 'config.json', config)
    fake.dump(folder / 'env.json', {'command': ['python', EVIL, 'a b'], EVIL: EVIL})
    return folder


def test_names_are_escaped_everywhere(evil):
    text = render([evil])
    page = Page(text)
    assert '<script' not in text and 'alert(1)' in text
    allowed = {'src', 'alt', 'class', 'width', 'height'}
    assert all(set(tag.attributes) <= allowed for tag in page.named('img'))
    assert not any(name.startswith('on') for tag in page.tags for name in tag.attributes)
    assert f'an example of the target class {EVIL}' in [tag.attributes['alt'] for tag in page.named('img')]
    assert f'2 methods on {EVIL}' in [text for where, text in page.texts if where == 'title']
    assert "python '<script>alert(1)</script>' 'a b'" in page.text()


def test_one_seed(tmp_path):
    page = Page(render([fake.make_run(tmp_path / 'run', 'smile', [0.9])]))
    text = page.text()
    assert '\u00b1' not in text and 'One seed was run' in text and 'Class pairs' not in text
    assert len(page.named('svg')) == 2 and 'band' not in [tag.attributes.get('class') for tag in page.named('path')]


def test_one_seed_of_several_methods(tmp_path):
    page = Page(render([fake.make_comparison(tmp_path / 'run', seeds=1)]))
    assert 'in the one seed that can be compared' in page.text() and '\u00b1' not in page.text()
    assert len(page.named('svg')) == 3


def test_without_metrics_and_pictures(tmp_path):
    folder = fake.make_run(tmp_path / 'run', 'smile', [0.9, 0.91])
    for name in ('metrics.jsonl', 'samples.npz'):
        (folder / name).unlink()
    page = Page(render([folder]))
    assert 'No curves: there is no metrics.jsonl' in page.text()
    assert not page.named('img') and 'What the network saw' not in page.text()


def test_pairs_without_pictures_are_a_table(tmp_path):
    folder = fake.make_run(tmp_path / 'run', 'xmixup', [0.9], pairs=True)
    (folder / 'pairs.npz').unlink()
    assert 'ze 0.84' in Page(render([folder])).text()


def test_without_a_recorded_command(tmp_path):
    folder = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    env = fake.environment()
    del env['command']
    fake.dump(folder / 'env.json', env)
    assert 'No command was recorded' in Page(render([folder])).text()


@pytest.mark.parametrize('copies', [1, 3])
def test_large_pictures_and_many_classes_stay_under_three_megabytes(tmp_path, copies):
    classes = tuple(f'{i}. a breed' for i in range(40))
    methods = {label: 0.7 for label in ('finetune', 'mixup', 'smile', 'x1', 'x2', 'x3')}
    folder = fake.make_comparison(tmp_path / '0', methods, classes=classes, side=16, channels=3)
    rng = np.random.default_rng(0)  # noise cannot be compressed
    for npz in folder.rglob('*.npz'):
        arrays = dict(np.load(npz))
        for name, array in arrays.items():
            if array.ndim > 1:
                arrays[name] = rng.integers(0, 256, (*array.shape[:-3], 224, 224, 3)).astype(np.uint8)
        np.savez(npz, **arrays)
    folders = [folder, *(shutil.copytree(folder, tmp_path / str(i)) for i in range(1, copies))]
    text = render(folders)
    assert 500_000 < len(text.encode()) < 3_000_000
    page = Page(text)
    assert 'The first 12 of 40 classes' in page.text()
    assert all(int(tag.attributes['width'] or 0) <= 112 for tag in page.named('img'))
    assert 'pixels' not in [tag.attributes.get('class') for tag in page.named('img')]


def test_pictures_that_do_not_fit_are_left_out_and_it_is_said(quickstart, monkeypatch):
    monkeypatch.setattr(html, 'BUDGET', 30_000)
    page = Page(render([quickstart]))
    assert 'are left out to keep the file small' in page.text()
    assert 0 < len(page.named('img')) < 90


def test_several_folders_have_a_section_each(tmp_path, quickstart):
    other = fake.make_run(tmp_path / 'other', 'smile', [0.9])
    page = Page(render([quickstart, other]))
    ids = [tag.attributes['id'] for tag in page.tags if 'id' in tag.attributes]
    assert len(set(ids)) == len(ids)
    assert [text for where, text in page.texts if where == 'h2'] == ['quickstart', 'other']
    assert {tag.attributes['href'] for tag in page.named('a')} >= {'#s1', '#s2', '#s1-accuracy', '#s2-accuracy'}


def test_bidi_class_names_cannot_reorder_numbers(tmp_path):
    """Names are in elements of their own, without the characters that order text."""
    classes = ('cat\u202e', '\u05e9\u05dc\u05d5\u05dd', *fake.CLASSES[2:])
    run = fake.make_run(tmp_path / 'run', 'smile', [0.9], pairs=True, classes=classes)
    fake.predict(run)
    page = render([run])
    assert '\u202e' not in page and 'cat?' in page
    assert f'<b><bdi>{classes[1]}</bdi></b> <span class="value">' in page
    assert re.search('<b><bdi>cat\\?</bdi></b> <span class="value">[0-9.]+', page)
    assert f'\u2068{classes[1]}\u2069 for ' in page or f' for \u2068{classes[1]}\u2069 ' in page
    assert page.count('\u2068') == page.count('\u2069')
    write(run)
    for name in ('results.md', 'results.csv'):
        assert not re.search('[\u2066-\u2069\u202a-\u202e]', (run / name).read_text())


def test_write_puts_the_page_in_the_folder(quickstart, tmp_path):
    copy = shutil.copytree(quickstart, tmp_path / 'run')
    path = write(copy)
    assert path == copy / 'report.html' and path.read_bytes().decode() == render([copy])
    assert not list(copy.glob('*.part'))
    assert write(copy).read_text() == render([copy])  # its own report is no input


def test_several_go_beside_the_folders_unless_that_is_another_run(quickstart, tmp_path):
    folders = [fake.make_run(tmp_path / name, 'smile', [0.9]) for name in ('a', 'b')]
    assert write(*folders) == tmp_path / 'report.html'
    assert write(*folders, out=tmp_path / 'two.html') == tmp_path / 'two.html'
    with pytest.raises(UserError, match='--out'):
        write(quickstart / 'mixup', quickstart / 'smile')


def test_a_place_that_cannot_be_written(quickstart, tmp_path):
    with pytest.raises(UserError, match='cannot be written'):
        write(quickstart, out=tmp_path / 'no' / 'such' / 'folder.html')


def test_blend_shares_are_estimated_from_pixels(page):
    assert page.text().count('target\u2019s share') == 4
    assert page.text().count('60 %') == 4 * 8
