"""Many runs in one report: what they have in common, the answer, the table, its filters, and the files beside it."""

import csv
import json
import re

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.report import answer, filters, overview, render, several, write
from mixjax.report import page as frame
from mixjax.report.filters import Kind
from mixjax.report.gather import gather
from mixjax.report.read import read
from tests.support import fake
from tests.support.page import Page

CELLS = {
    'birds finetune 0.5': [0.5, 0.52, 0.51],
    'birds smile 0.5': [0.55, 0.56, 0.57],
    'birds mixup 0.5': [0.49, 0.5, 0.52],
    'birds finetune 1.0': [0.6, 0.62, 0.61],
    'birds smile 1.0': [0.61, 0.6, 0.63],
    'birds mixup 1.0': [0.7, 0.7, 0.7],
    'cars finetune 0.5': [0.4, 0.42, 0.41],
    'cars smile 0.5': [0.45, 0.46, 0.44],
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = fake.make_grid(tmp_path_factory.mktemp('runs') / 'grid', CELLS)
    (folder / 'cars-mixup-0.5').mkdir()
    fake.dump(folder / 'cars-mixup-0.5' / 'config.json', {'steps': 400})
    (folder / '.locks').mkdir()
    (folder / 'empty').mkdir()
    return folder


@pytest.fixture(scope='module')
def found(root):
    return overview.lines(gather([root]).folders)


def by_name(found):
    return {line.name: line for line in found}


# --- side by side -----------------------------------------------------------------------------------------------------


def test_settings_and_differences_by_hand(found):
    assert [line.name for line in found] == [
        'birds-finetune-0.5', 'birds-smile-0.5', 'birds-mixup-0.5', 'birds-finetune-1.0', 'birds-mixup-1.0',
        'birds-smile-1.0', 'cars-finetune-0.5', 'cars-smile-0.5',
    ]  # fmt: skip
    lines = by_name(found)
    assert lines['birds-smile-0.5'].setting == ('birds', '50 %', 'glyphnet')
    assert lines['birds-mixup-1.0'].setting.labels == 'all'
    gap = lines['birds-smile-0.5'].difference
    np.testing.assert_allclose([gap.mean, gap.stderr, gap.n], [0.05, 0.01 / 3**0.5, 3])
    assert {seed: round(value, 6) for seed, value in lines['birds-smile-0.5'].gaps.items()} == {
        0: 0.05,
        1: 0.04,
        2: 0.06,
    }
    base = lines['birds-finetune-0.5']
    assert base.is_base and base.difference is None and base.gaps == {}
    assert overview.difference_text(base) == 'baseline'
    assert overview.difference_text(lines['birds-mixup-0.5']) == '\u22120.67 \u00b1 0.88'


def test_the_answer_counts_settings(found):
    told = overview.answer(found)
    # 5.0, 0.33 and 4.0; mixup was run in two settings only
    assert told.headline == 'smile is ahead of finetune in 3 of 3 settings, by 3.11 points on average.'
    what = 'percentage points of smile to finetune, mean over 3 settings, \u00b1 standard error'
    gaps = ([0.05, 0.04, 0.06], [0.01, -0.02, 0.02], [0.05, 0.04, 0.03])
    stderr = sum(np.var(gap, ddof=1) / 3 for gap in gaps) ** 0.5 / 3
    assert told.figures[0] == (f'+3.11 \u00b1 {100 * stderr:.2f}', what)
    assert told.figures[1] == ('8', 'finished runs')
    assert told.remarks[0].endswith('in 2 of 3 settings.')
    assert told.remarks[1] == 'Methods that were run in fewer settings are left out of this: 1.'


@pytest.mark.parametrize(
    ('cells', 'headline'),
    [
        ({'a finetune 1.0': [0.5, 0.5, 0.5], 'a smile 1.0': [0.4, 0.4, 0.4]}, 'No method is ahead of finetune.'),
        ({'a finetune 1.0': [0.5, 0.6], 'a smile 1.0': [0.6, 0.6]}, 'by 5.00 points, which may be chance.'),
        (
            {'a finetune 1.0': [0.5], 'a smile 1.0': [0.6]},
            'smile is ahead of finetune by 10.00 points, which may be chance.',
        ),
        ({'a mixup 1.0': [0.5], 'b smile 1.0': [0.6]}, 'The highest accuracy is that of smile on b: 60.00 %.'),
        ({'a finetune 1.0': [0.5], 'b smile 1.0': [0.6]}, 'The highest accuracy is that of smile on b: 60.00 %.'),
    ],
)
def test_other_answers(cells, headline, tmp_path):
    told = overview.answer(overview.lines(gather([fake.make_grid(tmp_path, cells)]).folders))
    assert told.headline.endswith(headline)


def test_what_differs_within_a_setting_is_told(tmp_path):
    root = fake.make_grid(tmp_path, {'a finetune 1.0': [0.5], 'a smile 1.0': [0.6]})
    other = fake.make_run(tmp_path / 'b', 'smile', [0.7], side=4)
    method = {'name': 'smile', 'alpha': 0.5, 'joint': True}
    target = json.loads((root / 'a-smile-1.0' / 'config.json').read_text())['target']
    fake.change(other, 'config.json', target=target, method=method)
    lines = overview.lines(gather([root]).folders)
    assert [line.method for line in lines] == ['finetune', 'smile alpha=0.5', 'smile alpha=0.2']
    # Two that could be the baseline: the one whose other settings are the same; if neither is, there is none.
    again = fake.make_run(tmp_path / 'c', 'finetune', [0.1], side=4)
    fake.change(again, 'config.json', target=target, batch_size=7)
    assert by_name(overview.lines(gather([root]).folders))['b'].gaps == {0: 0.7 - 0.5}
    fake.change(root / 'a-finetune-1.0', 'config.json', batch_size=8)
    assert by_name(overview.lines(gather([root]).folders))['b'].difference is None


def test_a_comparison_has_its_own_baseline(tmp_path):
    one = fake.make_comparison(tmp_path / 'one', {'mixup': 0.5, 'smile': 0.6})
    lines = overview.lines(read([one]))
    assert [(line.method, line.base, line.is_base) for line in lines] == [
        ('mixup', 'mixup', True),
        ('smile', 'mixup', False),
    ]
    results = json.loads((one / 'results.json').read_text())
    assert lines[1].difference is not None and lines[1].difference.mean == results['differences']['smile']['mean']


# --- which runs -------------------------------------------------------------------------------------------------------


def test_a_folder_of_runs_leaves_out_what_is_not_finished(root, tmp_path):
    found = gather([root])
    assert len(found.folders) == 8 and found.unfinished == ('cars-mixup-0.5',) and found.grid
    extended = fake.make_grid(tmp_path / 'deep' / 'er', {'a smile 1.0': [0.5], 'b smile 1.0': [0.5]})
    fake.change(extended / 'a-smile-1.0', 'config.json', steps=800)
    fake.change(extended / 'a-smile-1.0', 'results.json', steps=400)
    assert gather([tmp_path]).unfinished == ('a-smile-1.0',)
    (extended / 'b-smile-1.0' / 'results.json').unlink()
    with pytest.raises(UserError, match='no run is finished of 2 runs that were begun: a-smile-1.0, b-smile-1.0'):
        gather([tmp_path])
    with pytest.raises(UserError, match='b-smile-1.0 is not finished'):
        gather([extended / 'b-smile-1.0'])  # it was asked for
    with pytest.raises(UserError, match='not a work directory'):
        gather([root / 'empty'])
    named = [path for path in root.iterdir() if path.name[0] in 'bc' and path.name != 'cars-mixup-0.5']
    both = gather([*named, root / 'report.html', root / 'results.csv'])
    assert len(both.folders) == 8 and not both.grid


def test_damaged_run_is_reported(tmp_path):
    root = fake.make_grid(tmp_path, {'a smile 1.0': [0.5], 'b smile 1.0': [0.5]})
    fake.change(root / 'a-smile-1.0', 'results.json', seeds=[])
    with pytest.raises(UserError, match=r'a-smile-1.0/results.json is damaged'):
        render([root])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_the_answer_filters_a_table_and_each_run(root):
    text = render([root])
    page = Page(text)
    assert [tag.attributes['content'] for tag in page.named('meta') if 'http-equiv' in tag.attributes] == [frame.POLICY]
    assert not page.named('script') and len(text.encode()) < 3_000_000
    first = next(text for where, text in page.texts if where == 'p')
    assert first.startswith('smile is ahead of finetune in 3 of 3 settings')
    assert [text for where, text in page.texts if where == 'legend'] == ['Data', 'Labels', 'Method']  # one network
    boxes = [tag.attributes for tag in page.named('input')]
    assert len(boxes) == 2 + 2 + 3 and len({box['id'] for box in boxes}) == 7
    assert sum('label' in tag.path for tag in page.named('input')) == 7
    assert page.text().count('1 run not finished, and left out') == 1 and 'cars-mixup-0.5' in page.text()
    rows = [tag for tag in page.named('tr') if 'line' in (tag.attributes.get('class') or '').split()]
    assert len(rows) == 8 and 'birds, 50 % labelled (30 images), glyphnet' in page.text()
    ids = {tag.attributes['id'] for tag in page.tags if 'id' in tag.attributes}
    assert {tag.attributes['href'][1:] for tag in page.named('a')} <= ids
    assert {f's{i}' for i in range(1, 9)} <= ids
    assert render([root]) == text


def hidden(sheet: str, ticked: set[str], classes: str) -> bool:
    """Whether an element of these classes is hidden where these boxes are ticked: the rules, read by hand."""
    rule = re.compile(r'body:has\(\.of-(\w):checked\):not\(:has\((.*?)\)\) \.([\w-]+) \{ display: none; \}')
    rules = rule.findall(sheet)
    assert len(rules) == len([line for line in sheet.splitlines() if line.startswith('body')]) > 0
    for kind, own, name in rules:
        names = {one.removesuffix(':checked').lstrip('#') for one in own.split(', ')}
        if name in classes.split() and any(one[0] == kind for one in ticked) and not names & ticked:
            return True
    return False


def test_filters_hide_what_was_not_asked_for(root):
    folders = gather([root]).folders
    page, sheet = several.body(folders, (), '', lambda *_: '')
    lines = overview.lines(folders)
    boxes = {}
    for tag in Page(page).named('input'):
        boxes[tag.attributes['id']] = len(boxes)
    kinds = several.kinds(lines)
    box = {(kind.name, value): f'{kind.name}{place}' for kind in kinds for place, value in enumerate(kind.values)}
    rows = [
        tag for tag in Page(page).tags if tag.name in ('tr', 'tbody') and 'is-' in (tag.attributes.get('class') or '')
    ]
    bodies = [tag.attributes['class'] or '' for tag in rows if tag.name == 'tbody']
    assert len(bodies) == 3

    def seen(*chosen):
        ticked = {box[one] for one in chosen}
        out, body = [], ''
        for tag in rows:
            classes = tag.attributes['class'] or ''
            if tag.name == 'tbody':
                body = classes
            elif not hidden(sheet, ticked, body) and not hidden(sheet, ticked, classes):
                out.append(tag)
        assert sum(not hidden(sheet, ticked, one) for one in bodies) >= (1 if out else 0)
        return len(out)

    assert seen() == 8
    assert seen(('d', 'birds')) == 6 and seen(('d', 'cars')) == 2 and seen(('d', 'cars'), ('d', 'birds')) == 8
    assert seen(('m', 'smile')) == 3 and seen(('m', 'mixup')) == 2 and seen(('m', 'smile'), ('m', 'mixup')) == 5
    assert seen(('d', 'birds'), ('l', 'all'), ('m', 'smile')) == 1
    assert seen(('d', 'cars'), ('m', 'mixup')) == 0
    # A setting without a line that is left has no heading either; so has a run no section.
    assert [hidden(sheet, {box['m', 'mixup']}, one) for one in bodies] == [False, False, True]
    sections = [tag.attributes['class'] or '' for tag in Page(page).named('section') if tag.attributes.get('id')]
    assert sum(not hidden(sheet, {box['m', 'smile'], box['d', 'cars']}, one) for one in sections) == 1


def test_without_choices_there_are_no_filters():
    one = Kind('d', 'Data', {'birds': 3})
    assert filters.form([one], 'run') == '' and filters.sheet([one], {}) == ''


def test_filter_values_are_escaped_in_html_and_css(tmp_path):
    evil = '"><script>x</script>}'
    root = fake.make_grid(tmp_path, {'a finetune 1.0': [0.5], 'b finetune 1.0': [0.5]})
    fake.change(root / 'a-finetune-1.0', 'config.json', target={'name': evil})
    text = render([root])
    assert '<script' not in text and evil not in text
    assert 'script' not in re.search(r'<style>(.*?)</style>', text, re.S)[1]  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize(('limit', 'told'), [(10**9, ''), (120_000, 'pictures and whole'), (60_000, 'all details of')])
def test_a_large_grid_fits(root, monkeypatch, limit, told):
    monkeypatch.setattr(several, 'LIMIT', limit)
    page = Page(render([root]))
    size = len(render([root]).encode())
    assert size < limit + 15_000  # the style sheet of every page
    notes = [text for where, text in page.texts if where == 'p' and 'To keep the file small' in text]
    assert len(notes) == (1 if told else 0) and all(told in note for note in notes)
    sections = {tag.attributes['id'] for tag in page.named('section') if 'id' in tag.attributes}
    links = {(tag.attributes['href'] or '')[1:] for tag in page.named('a')}
    assert {link for link in links if link.startswith('s') and link[1:].isdigit()} == sections
    assert len(sections) < 8 if 'details' in told else len(sections) == 8
    rows = [tag for tag in page.named('tr') if 'line' in (tag.attributes.get('class') or '').split()]
    assert len(rows) == 8  # the table has all of them


# --- the files beside it ----------------------------------------------------------------------------------------------


def test_tables_beside_the_report(root):
    assert write(root) == root / 'report.html'
    rows = list(csv.DictReader((root / 'results.csv').read_text().splitlines()))
    assert len(rows) == 8 * 3
    one = next(row for row in rows if row['run'] == 'birds-smile-0.5' and row['seed'] == '1')
    assert (one['dataset'], one['labels'], one['method'], one['accuracy']) == ('birds', '50 %', 'smile', '0.56')
    assert abs(float(one['difference']) - 0.04) < 1e-12 and one['baseline'] == 'finetune' and one['top5'] == ''
    assert {row['difference'] for row in rows if row['method'] == 'finetune'} == {''}
    text = (root / 'results.md').read_text()
    assert '| birds | 50 % | glyphnet | smile | 56.00 \u00b1 1.00 | 3 | +5.00 \u00b1 0.58 | birds-smile-0.5 |' in text
    assert 'Not finished, and left out: cars-mixup-0.5.' in text and text.count('mixjax train') == 8
    before = text, (root / 'results.csv').read_text()
    write(root)
    assert before == ((root / 'results.md').read_text(), (root / 'results.csv').read_text())


def test_the_tables_of_one_run_have_the_words_of_its_page(tmp_path):
    run = fake.make_comparison(tmp_path / 'run', {'finetune': 0.5, 'smile': 0.6})
    write(run)
    text = (run / 'results.md').read_text()
    assert text.startswith('# 2 methods on digits\n') and '| finetune |' in text and 'baseline' in text
    told = answer.answer(json.loads((run / 'results.json').read_text()))
    assert told.headline in text and f'    {fake.environment()["command"]}\n' in text
    assert len((run / 'results.csv').read_text().splitlines()) == 1 + 6


def test_other_report_names_and_foreign_files(tmp_path):
    run = fake.make_run(tmp_path / 'run', 'smile', [0.5], side=4)
    assert write(run, out=tmp_path / 'mine.html') == tmp_path / 'mine.html'
    assert {path.name for path in tmp_path.iterdir()} == {'run', 'mine.html', 'mine.md', 'mine.csv'}
    with pytest.raises(UserError, match='is the name of a table'):
        write(run, out=tmp_path / 'mine.md')
    for name in ('results.md', 'results.csv'):
        (run / name).write_text('# My own results\n')
        with pytest.raises(UserError, match=f'{name} was not written by a report'):
            write(run)
        assert (run / name).read_text() == '# My own results\n' and not (run / 'report.html').exists()
        (run / name).unlink()


def test_spreadsheet_formulas_are_escaped(tmp_path):
    root = fake.make_grid(tmp_path, {'a finetune 1.0': [0.5]})
    fake.change(root / 'a-finetune-1.0', 'config.json', target={'name': '=1+1'})
    write(root)
    (row,) = csv.DictReader((root / 'results.csv').read_text().splitlines())
    assert row['dataset'] == "'=1+1"
