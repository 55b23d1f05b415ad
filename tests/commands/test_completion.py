"""The completion scripts, in the shells themselves."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixjax.commands import cli
from mixjax.commands.table import COMMANDS
from mixjax.host.shipped import shipped

SHELLS = ('bash', 'zsh', 'fish')


@pytest.fixture
def scripts(tmp_path, capsys) -> dict[str, Path]:
    """{shell: its script}, in a folder with a file and a folder of its own."""
    found = {}
    for shell in SHELLS:
        assert cli.main(['completion', shell]) == 0
        found[shell] = tmp_path / f'mixjax.{shell}'
        found[shell].write_text(capsys.readouterr().out)
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here' / 'mine.py').touch()
    (tmp_path / 'here' / 'runs').mkdir()
    return found


def shell(name: str) -> str:
    path = shutil.which(name, path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
    if path is None:
        pytest.skip(f'{name} is not installed')
    return path


def run(script: Path, program: str, *words: str) -> list[str]:
    done = subprocess.run([*words, program], cwd=script.parent / 'here', capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout.splitlines()


def bash(script: Path, *words: str, breaks: str = '') -> list[str]:
    """What bash offers for the last word: it calls the function that the script registers, with COMP_WORDS set."""
    program = (
        f'{breaks}source {shlex.quote(str(script))}\n'
        'compopt() { :; }\n'  # works only while somebody types
        f'COMP_WORDS=({" ".join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}\n'
        'registered=$(complete -p mixjax)\n'
        'function=${registered#*-F }\n'
        '${function% mixjax}\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    return [line for line in run(script, program, shell('bash'), '--norc', '-c') if line]


@pytest.mark.parametrize('name', SHELLS)
def test_the_shell_reads_its_script(name, scripts):
    assert run(scripts[name], str(scripts[name]), shell(name), '-n') == []


def test_bash_completes_commands_and_flags(scripts):
    script = scripts['bash']
    assert bash(script, 'mixjax', '') == [*COMMANDS, '--help', '--version']
    assert bash(script, 'mixjax', 'pre') == ['predict', 'prepare']
    for command in COMMANDS.values():
        wanted = [f'--{flag.name}' + '=' * (not flag.switch) for flag in command.flags] + ['--help']
        assert bash(script, 'mixjax', command.name, '--') == wanted
    assert bash(script, 'mixjax', 'train', '--wor') == ['--workdir=']
    assert bash(script, 'mixjax', 'nothing', '--') == []
    assert bash(script, 'mixjax', 'predict', '--json', '--te') == ['--test']


@pytest.mark.parametrize(
    ('flag', 'breaks', 'prefix'),
    [(['--config', '='], '', ''), (['--config'], '', ''), ([], 'COMP_WORDBREAKS=" "\n', '--config=')],
    ids=['as readline splits it', 'a word of its own', 'not split'],
)
def test_bash_completes_configs(flag, breaks, prefix, scripts):
    def offered(text: str) -> list[str]:
        return bash(scripts['bash'], 'mixjax', 'train', *flag, f'{prefix}{text}', breaks=breaks)

    assert offered('quick') == [f'{prefix}quickstart']
    assert offered('digits/lamix_fig') == [f'{prefix}digits/lamix_fig{k}' for k in range(2, 9)]
    assert offered('mi') == []  # a file


def test_bash_completes_values_and_leaves_files_to_readline(scripts):
    script = scripts['bash']
    assert bash(script, 'mixjax', 'train', '--config', '=') == shipped()
    assert bash(script, 'mixjax', 'analyse', '--of', '=', 'l') == ['logits']
    assert bash(script, 'mixjax', 'train', '--changed_code', '=') == ['accept']
    assert bash(script, 'mixjax', 'grid', 'digits/gr') == ['digits/grid']
    assert bash(script, 'mixjax', 'grid', 'digits/grid', '--run', '=') == []
    assert bash(script, 'mixjax', 'completion', '') == list(SHELLS)
    assert bash(script, 'mixjax', 'predict', 'pho') == bash(script, 'mixjax', 'train', '--workdir', '=', 'r') == []
    assert bash(script, 'mixjax', 'train', '--config.seed', '=', '') == []
    registered = run(script, f'source {shlex.quote(str(script))}; complete -p', shell('bash'), '--norc', '-c')
    assert registered == ['complete -o default -F _mixjax mixjax']


def test_shellcheck_finds_nothing(scripts):
    done = subprocess.run([shell('shellcheck'), '-s', 'bash', scripts['bash']], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def fish(script: Path, line: str) -> list[str]:
    program = f'source {script}; complete -C {shlex.quote(line)}'
    return [word.split('\t')[0] for word in run(script, program, shell('fish'), '--no-config', '-c')]


def test_fish_completes(scripts):
    script = scripts['fish']
    assert set(fish(script, 'mixjax ')) >= COMMANDS.keys()
    assert fish(script, 'mixjax train --wor') == ['--workdir']
    assert fish(script, 'mixjax train --config=quick') == ['--config=quickstart']
    assert fish(script, 'mixjax train --config=mi') == ['--config=mine.py']
    assert fish(script, 'mixjax train --workdir=ru') == ['--workdir=runs/']
    assert fish(script, 'mixjax analyse --of l') == ['logits']
    assert fish(script, 'mixjax grid digits/gr') == ['digits/grid']
    assert fish(script, 'mixjax predict --tes') == ['--test']
    assert set(fish(script, 'mixjax completion ')) == set(SHELLS)
    assert not fish(script, 'mixjax prepare --con')


# A zsh on a terminal of its own: it gets the line and a tab, and then prints the line that has come of it.
TYPES = r"""
zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell "autoload -Uz compinit; compinit -u -D; source ${(q)1}; bindkey '^I' complete-word; print rea''dy"
zpty -r shell said '*ready*'
for line in "${@:2}"; do
    zpty -w -n shell "$line"$'\t\C-aprint -r -- "line:"\'\C-e\'":end"\n'
    zpty -r shell said $'*\nline:*:end*'
    said=${said##*$'\n'line:}
    print -r -- ${said%%:end*}
done
"""


def test_zsh_completes(scripts):
    typed = {
        'mixjax anal': 'mixjax analyse',
        'mixjax completion fi': 'mixjax completion fish',
        'mixjax train --workd': 'mixjax train --workdir',
        'mixjax train --workdir=ru': 'mixjax train --workdir=runs',
        'mixjax train --config=quick': 'mixjax train --config=quickstart',
        'mixjax train --config=mi': 'mixjax train --config=mine.py',
        'mixjax grid digits/gr': 'mixjax grid digits/grid',
        'mixjax analyse --of=l': 'mixjax analyse --of=logits',
        'mixjax predict --te': 'mixjax predict --test',
        'mixjax prepare --con': 'mixjax prepare --con',
    }
    said = subprocess.run(
        [shell('zsh'), '-f', '-c', TYPES, 'zsh', scripts['zsh'], *typed], cwd=scripts['zsh'].parent / 'here',
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    # What a next word would take away again is cut off.
    assert [line.rstrip(' =/') for line in said.stdout.splitlines()] == list(typed.values())
