import pytest

from mixjax.errors import UserError
from mixjax.main import main
from mixjax.report import sections


def test_a_section_is_replaced_and_the_rest_stays(tmp_path):
    path = tmp_path / 'docs' / 'results.md'
    sections.write(path, 'a', 'one')
    sections.write(path, 'b', 'two')
    path.write_text(path.read_text().replace('# Results\n', '# Results\n\nWritten by hand.\n') + '\nThe end.\n')
    before = path.read_text()
    sections.write(path, 'a', 'three\n')
    after = path.read_text()
    assert after == before.replace('\none\n', '\nthree\n')
    assert after.startswith('# Results\n\nWritten by hand.\n') and after.endswith('The end.\n')
    sections.write(path, 'a', 'three')
    assert path.read_text() == after


def test_missing_marker_or_unwritable_place_is_refused(tmp_path):
    path = tmp_path / 'results.md'
    sections.write(path, 'a', 'one')
    path.write_text(path.read_text().replace('<!-- end a -->', ''))
    with pytest.raises(UserError, match='not the mark .*; put it back'):
        sections.write(path, 'a', 'two')
    (tmp_path / 'file').touch()
    for use in (lambda path: sections.write(path, 'a', 'two'), sections.check):
        with pytest.raises(UserError, match='cannot be written'):
            use(tmp_path / 'file' / 'results.md')
    with pytest.raises(UserError, match='cannot be written'):
        sections.check(tmp_path)
    sections.check(tmp_path / 'new' / 'results.md')
    sections.check(tmp_path / 'new.md', tmp_path)
    with pytest.raises(UserError, match='has its own tables; name another file'):
        sections.check(tmp_path / 'results.md', tmp_path)
    assert not (tmp_path / 'new').exists()


@pytest.mark.slow
def test_a_run_over_several_values(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'two.py').write_text(
        'from mixjax.config import read\n\n\ndef get_config():\n'
        "    config = read('quickstart')\n"
        "    config.compare = {'finetune': {'name': 'finetune'}}\n"
        "    config.sweep.key, config.sweep.numbers = 'target.per_class', (1, 2)\n"
        "    config.results = 'out/results.md'\n"
        '    config.num_seeds, config.steps, config.eval_every, config.devices = 2, 2, 2, 1\n'
        '    return config\n'
    )
    words = ['--config=two.py', '--workdir=run']
    assert main(words) == 0
    out = capsys.readouterr().out
    assert 'table: out/results.md' in out and out.count('finetune') >= 4
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert 'per_class=1' in page and 'per_class=2' in page
    text = (tmp_path / 'out' / 'results.md').read_text()
    assert '## two\n\n    mixjax train --config=two.py --workdir=run\n' in text
    assert '### digits, per_class = 1\n\n10 labelled images, 1,787 test images, 10 classes, 2 steps.' in text
    assert text.count('| finetune |') == 2 and str(tmp_path) not in text and '| n |' in text
    # Again: nothing is trained and the files are the same.
    assert main(words) == 0
    assert 'nothing was trained' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'results.md').read_text() == text
    # Other settings are another section.
    others = ['--config.num_seeds=1', '--config.sweep.key=', '--config.sweep.numbers=']
    assert main([*words[:1], '--workdir=short', *others]) == 0
    text = (tmp_path / 'out' / 'results.md').read_text()
    assert '## two\n' in text and '## two, num_seeds=1, sweep.key=, sweep.numbers=\n' in text
    # One value of two has been extended: the other's table does not stand beside it.
    one = tmp_path / 'run' / 'per_class=1' / 'results.json'
    one.write_text(one.read_text().replace('"steps": 2', '"steps": 4'))
    with pytest.raises(UserError, match='is being extended and not finished'):
        sections.results_section('two', tmp_path / 'run')
    # Another value is another run.
    assert main([*words, '--config.sweep.numbers=1,3']) == 2
    assert 'sweep.numbers: [1, 2] there, [1, 3] now' in capsys.readouterr().err


def test_a_sweep_is_tried_whole_before_it_leaves_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        '--config=quickstart',
        '--config.method.name=finetune',
        '--workdir=run',
        '--config.sweep.key=target.per_class',
    ]
    assert main([*words, '--config.sweep.numbers=3,500']) == 2
    assert 'has only' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
    for key in ('image.mean', 'optim.drops', 'model.name'):
        assert main([*words[:3], f'--config.sweep.key={key}', '--config.sweep.numbers=0.5']) == 2
        assert 'must be the name of a number' in capsys.readouterr().err
