"""`mixjax completion SHELL`: prints a script with which a shell completes commands, flags and shipped configs.

The script holds the names, so that nothing of mixjax is started while somebody types; other values are files.
"""

from __future__ import annotations

from collections.abc import Sequence

from mixjax.commands.parser import HELP, Arguments, Command, Flag
from mixjax.commands.table import COMMANDS
from mixjax.host.shipped import shipped


def run(arguments: Arguments) -> int:
    """Print the script of a shell; returns the exit code."""
    (shell,) = arguments.positional
    print(SCRIPTS[shell](list(COMMANDS.values()), shipped()), end='')
    return 0


def flags_of(command: Command) -> tuple[Flag, ...]:
    return (*command.flags, HELP)


# --- bash -------------------------------------------------------------------------------------------------------------

BASH = """\
# Completion of mixjax for bash: eval "$(mixjax completion bash)"
_mixjax() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} flag='' prefix='' words=''
    local configs='@CONFIGS@'
    # Readline splits --flag=value at the '=', unless COMP_WORDBREAKS says something else.
    case $current in
        =) flag=$before current='' ;;
        --*=*) flag=${current%%=*} prefix=$flag= current=${current#*=} ;;
        *) case $before in =) flag=${COMP_WORDS[COMP_CWORD - 2]} ;; --*) flag=$before ;; esac ;;
    esac
    flag=${flag//_/-}
    if [ "$COMP_CWORD" = 1 ]; then
        words='@COMMANDS@'
    else
        case "${COMP_WORDS[1]} $flag" in
@CASES@
        esac
    fi
    # shellcheck disable=SC2207 # no word has a space or a wildcard
    COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$current"))
    case ${COMPREPLY[0]} in *=) if [ ${#COMPREPLY[@]} = 1 ]; then compopt -o nospace; fi ;; esac
}
# Where no word fits, files do.
complete -o default -F _mixjax mixjax
"""


def bash(commands: Sequence[Command], configs: Sequence[str]) -> str:
    lines = []
    for command in commands:
        files = []
        for flag in command.flags:
            if flag.configs or flag.choices:
                words = '$configs' if flag.configs else ' '.join(flag.choices)
                lines.append(f'\'{command.name} --{flag.name}\') words="{words}" ;;')
            elif not flag.switch:
                files.append(f"'{command.name} --{flag.name}'")
        if files:
            lines.append(f'{" | ".join(files)}) ;;')
        if command.settings:
            lines.append(f"'{command.name} --config.'*) ;;")
        words = [f'--{flag.name}' if flag.switch else f'--{flag.name}=' for flag in flags_of(command)]
        about = command.positional
        alone = '' if about is None else '$configs' if about.configs else ' '.join(about.choices)
        flags = f'words="{" ".join(words)}"'
        other = flags if about is None else f'case $current in -*) {flags} ;; *) words="{alone}" ;; esac'
        lines.append(f"'{command.name} '*) {other} ;;")
    return _filled(
        BASH,
        CONFIGS=' '.join(configs),
        COMMANDS=' '.join([*(command.name for command in commands), '--help', '--version']),
        CASES='\n'.join(f'            {line}' for line in lines),
    )


# --- zsh --------------------------------------------------------------------------------------------------------------

ZSH = """\
#compdef mixjax
# Completion of mixjax for zsh: eval "$(mixjax completion zsh)", or this file as _mixjax in a folder of $fpath
_mixjax_config() {
    local -a configs=(@CONFIGS@)
    _alternative 'configs:config:compadd -a configs' 'files:file:_files'
}
_mixjax() {
    local -a commands=(
@COMMANDS@
    )
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    ((CURRENT -= 1))
    case $command in
@CASES@
    esac
}
if [ "$funcstack[1]" = _mixjax ]; then _mixjax "$@"; else compdef _mixjax mixjax; fi
"""


def zsh(commands: Sequence[Command], configs: Sequence[str]) -> str:
    def action(choices: Sequence[str], of_configs: bool) -> str:
        return '_mixjax_config' if of_configs else f'({" ".join(choices)})' if choices else '_files'

    def spec(flag: Flag) -> str:
        text = _colons(flag.help).replace('[', r'\[').replace(']', r'\]')
        if flag.switch:
            return _quoted(f'--{flag.name}[{text}]')
        more = '*' if flag.repeated else ''
        return _quoted(f'{more}--{flag.name}=[{text}]:{_colons(flag.metavar)}:{action(flag.choices, flag.configs)}')

    cases = []
    for command in commands:
        specs = [spec(flag) for flag in flags_of(command)]
        if command.settings:
            specs.append(_quoted('*--config.-[change one setting of the config]:KEY=VALUE: '))
        if command.positional is not None:
            about = command.positional
            where = '1' if about.most == 1 else '*'
            specs.append(_quoted(f'{where}:{about.metavar}:{action(about.choices, about.configs)}'))
        joined = ' \\\n                '.join(specs)
        cases.append(f'        {command.name})\n            _arguments -S \\\n                {joined} ;;')
    return _filled(
        ZSH,
        CONFIGS=' '.join(configs),
        COMMANDS='\n'.join('        ' + _quoted(f'{one.name}:{_colons(one.summary)}') for one in commands),
        CASES='\n'.join(cases),
    )


# --- fish -------------------------------------------------------------------------------------------------------------


def fish(commands: Sequence[Command], configs: Sequence[str]) -> str:
    def values(choices: Sequence[str], of_configs: bool) -> str:
        return f' -a {_fish_quoted(" ".join(configs if of_configs else choices))}' if choices or of_configs else ''

    lines = ['# Completion of mixjax for fish: mixjax completion fish >~/.config/fish/completions/mixjax.fish']
    for command in commands:
        lines.append(
            f'complete -c mixjax -n __fish_use_subcommand -f -a {command.name} -d {_fish_quoted(command.summary)}'
        )
    for command in commands:
        here = f'complete -c mixjax -n "__fish_seen_subcommand_from {command.name}"'
        for flag in flags_of(command):
            takes = '' if flag.switch else ' -x' if flag.choices else ' -r -F'
            takes += values(flag.choices, flag.configs)
            lines.append(f'{here} -l {flag.name}{takes} -d {_fish_quoted(flag.help)}')
        about = command.positional
        if about is None or about.choices:
            lines.append(f'{here} -f{values(about.choices, False) if about else ""}')
        else:
            lines.append(f'{here} -F{values((), about.configs)}')
    return '\n'.join(lines) + '\n'


# --- text -------------------------------------------------------------------------------------------------------------


def _filled(text: str, **holes: str) -> str:
    """A script with what goes in place of each `@NAME@`; scripts are full of braces and dollars."""
    for name, value in holes.items():
        text = text.replace(f'@{name}@', value)
    return text


def _colons(text: str) -> str:
    """A text within a specification of zsh, whose parts are separated by colons."""
    return text.replace('\\', '\\\\').replace(':', r'\:')


def _quoted(text: str) -> str:
    """A word of zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


SCRIPTS = {'bash': bash, 'zsh': zsh, 'fish': fish}
