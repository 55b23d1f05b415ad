"""`mixjax report`."""

import subprocess
import sys

from mixjax.commands import cli
from tests.support import fake


def test_report_prints_the_path_it_writes(tmp_path, capsys):
    folder = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    assert cli.run('report', [str(folder)]) == 0
    assert capsys.readouterr().out == f'report: {folder / "report.html"}\n'
    assert (folder / 'report.html').read_text().startswith('<!doctype html>')


def test_report_out_flag(tmp_path, capsys):
    folders = [str(fake.make_run(tmp_path / name, 'smile', [0.9])) for name in ('a', 'b')]
    assert cli.run('report', [*folders, '--out', str(tmp_path / 'both.html')]) == 0
    assert 'both.html' in capsys.readouterr().out and not (tmp_path / 'a' / 'report.html').exists()


def test_report_refuses_wrong_input_with_exit_code_2(tmp_path, capsys):
    assert cli.run('report', [str(tmp_path / 'nothing')]) == 2
    out, err = capsys.readouterr()
    assert (
        out == '' and err == f'mixjax: {tmp_path / "nothing"} is not a folder; give the --workdir of a finished run\n'
    )
    assert cli.run('report', []) == 2
    assert cli.run('report', ['--help']) == 0


def test_report_runs_without_jax(tmp_path):
    folder = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    code = (
        'import sys, runpy; sys.argv = ["mixjax", "report", sys.argv[1]]\n'
        'try: runpy.run_module("mixjax", run_name="__main__")\n'
        'except SystemExit as stop: assert stop.code == 0\n'
        'assert not {"jax", "matplotlib", "flax"} & set(sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
