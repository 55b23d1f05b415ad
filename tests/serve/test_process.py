"""`mixjax serve` as a process: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from mixjax.commands import cli, parser
from mixjax.commands import serve as command
from mixjax.commands.table import SERVE
from mixjax.serve import server
from tests.support.common import ROOT, call, environment
from tests.support.http_server import ask, started
from tests.support.photos import png


def request(port, path='/predict', body=None, **headers):
    with contextlib.closing(http.client.HTTPConnection('127.0.0.1', port, timeout=60)) as connection:
        return ask(connection, path, body, **headers)


def ended(process, number):
    """Send a signal, and return the exit code and what was printed from then on."""
    process.send_signal(number)
    said = process.stdout.read()
    return process.wait(60), said


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def documented(port, folder):
    """Make the requests of docs/serve.md with curl."""
    page = (ROOT / 'docs' / 'serve.md').read_text()
    lines = [line.strip() for line in page.splitlines() if line.startswith('    ') and 'curl ' in line]
    lines = [line for line in lines if 'http://127.0.0.1:8000/' in line]
    assert len(lines) == 5
    for line in lines:
        line = line.replace(':8000', f':{port}').replace('curl ', 'curl --silent --fail ', 1)
        done = subprocess.run(['bash', '-c', line], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (line, done)
        assert 'metrics' in line or 'error' not in json.loads(done.stdout)


def test_it_answers_writes_nothing_and_ends_with_a_line(digits_run, tmp_path):
    shutil.copy(digits_run.parent / 'photos' / '1' / '0.png', tmp_path / 'photo.jpg')
    with started(tmp_path, str(digits_run)) as (process, port, said):
        assert 'run: glyphnet, 4 classes, 20 labelled images; compiling\n' in said
        assert said.endswith(f'open http://127.0.0.1:{port}/ in a browser (Ctrl+C ends it)\n')
        before = files(tmp_path) | files(digits_run)
        image = (digits_run.parent / 'photos' / '2' / '0.png').read_bytes()
        answer = request(port, '/predict?why=1', image)
        assert answer.status == 200 and answer.body['images'][0]['models'][0]['top'][0]['class'] == '2'
        assert request(port, '/predict', b'no').status == 422 and request(port, '/').status == 200
        documented(port, tmp_path)
        assert files(tmp_path) | files(digits_run) == before
        # Its port is taken.
        second = call(tmp_path, 'serve', str(digits_run), f'--port={port}', module='mixjax')
        assert (second.returncode, second.stdout) == (2, '')
        assert second.stderr == f'mixjax: --port={port} is in use; choose another one, or 0 for any that is free\n'
        # Who has asked before the signal gets an answer.
        with contextlib.closing(http.client.HTTPConnection('127.0.0.1', port, timeout=60)) as slow:
            slow.putrequest('POST', '/predict')
            slow.putheader('Content-Type', 'image/png')
            slow.putheader('Content-Length', str(len(image)))
            slow.endheaders(image[:100])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.8)
            slow.send(image[100:])
            assert slow.getresponse().status == 200
        assert process.stdout.read() == 'stopped; 4 images were predicted\n' and process.wait(60) == 0


def test_other_machines_need_the_token_that_is_printed(tmp_path):
    with started(tmp_path, 'embedded://glyphnet', '--host=0.0.0.0') as (process, port, said):
        token = re.search(r'/#token=(\S{32,}) in a browser', said)[1]
        line = process.stdout.readline()
        assert line == f'requests need the header  Authorization: Bearer {token}\n'
        assert 'nothing is encrypted' in process.stdout.readline()
        assert request(port, '/predict', png(1)).status == 401
        assert request(port, '/predict', png(1), Authorization=f'Bearer {token}').status == 200
        assert ended(process, signal.SIGINT) == (0, 'stopped; 1 image was predicted\n')


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--host=nowhere.invalid', 'x'], '--host=nowhere.invalid is no address of this machine'),
        (['--port=70000', 'x'], '--port=70000 is no port'), (['--token=short', '--port=0', 'x'], 'at least 16'),
        ([], 'give at least one RUN'), (['--queue=0', 'x'], 'at least 1'),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run('serve', words) == 2
    said = capsys.readouterr().err
    assert said.startswith('mixjax: ') and said.count('\n') == 1 and sentence in said


@pytest.mark.skipif(os.geteuid() == 0, reason='root may use every port')
def test_ports_of_the_administrator_are_one_sentence(capsys):
    assert cli.run('serve', ['--port=1', 'x']) == 2
    assert 'for the administrator' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['starlette', 'uvicorn'])
def test_without_the_extra_it_says_what_to_install(name):
    script = f'import sys; sys.modules[{name!r}] = None; from mixjax.commands.cli import main; main(["serve", "x"])'
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.stderr == f"mixjax: `mixjax serve` needs {name}: pip install 'mixjax[serve]'\n" and not done.stdout


def test_addresses_that_are_printed():
    with server.listen('127.0.0.1', 0) as bound:
        port = bound.getsockname()[1]
        assert server.url('localhost', bound, '') == f'http://localhost:{port}/'
        assert server.url('::1', bound, 'a') == f'http://[::1]:{port}/#token=a'
        assert server.url('0.0.0.0', bound, '') == f'http://{socket.gethostname()}:{port}/'


def test_the_token_of_the_environment_need_not_be_on_the_command_line(monkeypatch):
    monkeypatch.setenv('MIXJAX_TOKEN', 'from-the-environment')
    assert command.token_of(parser.parse(SERVE, ['x'])) == 'from-the-environment'
    assert command.token_of(parser.parse(SERVE, ['x', '--token=given'])) == 'given'
