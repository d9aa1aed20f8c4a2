"""`python -m function completion`: a script for the shell, made of the parsers of all commands.

Written here and not with shtab: a dependency less in the image, and no more than a list of words is needed.
"""

from __future__ import annotations

import importlib
import sys

from . import COMMANDS
from .command_line import PROGRAM, Parser

__all__ = ["main", "parser"]

EXAMPLES = f"""
source <({PROGRAM} completion bash)
source <({PROGRAM} completion zsh)
"""

_SCRIPT = """\
# Completion of kube-audit-function, for {shell}: source this.
{before}_kube_audit_function() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" path="" word words="" number
    for ((number = 1; number < COMP_CWORD; number++)); do
        word="${{COMP_WORDS[number]}}"
        case "$word" in -*) ;; *) case "$path $word" in {paths}) path="$path $word" ;; esac ;; esac
    done
    case "$path $before" in
{values}
    esac
    if [ -z "$words" ]; then
        case "$path" in
{options}
        esac
        case "$current" in -*) ;; *) case "$path" in ""{groups}) ;; *) words="" ;; esac ;; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [ -n "$words" ] || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _kube_audit_function kube-audit-function
"""


def main(arguments: list[str]) -> int:
    """Print the script; return 0."""
    shell = parser().parse_args(arguments).shell
    sys.stdout.write(script(shell))
    return 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} completion",
        description="Print a completion script for the command kube-audit-function (pip install makes it).",
        examples=EXAMPLES,
    )
    made.add_argument("shell", choices=["bash", "zsh"])
    return made


def script(shell: str) -> str:
    """Return the script."""
    parsers = _parsers()
    groups = [path for path, one in parsers.items() if one.verbs()]
    options = {"": [*COMMANDS, "--help", "--version"]}
    options |= {path: [*one.verbs(), *one.options()] for path, one in parsers.items()}
    values = {f"{path} {option}": words for path, one in parsers.items() for option, words in one.values().items()}
    values[" completion completion"] = ["bash", "zsh"]
    return _SCRIPT.format(
        shell=shell,
        before="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
        paths="|".join(f'"{path}"' for path in parsers),
        values="\n".join(f'        "{key}") words="{" ".join(words)}" ;;' for key, words in values.items()),
        options="\n".join(f'            "{path}") words="{" ".join(words)}" ;;' for path, words in options.items()),
        groups="".join(f'|"{path}"' for path in groups),
    )


def _parsers() -> dict[str, Parser]:
    """Return every command's parser, and its subcommands', by its words with a space before each."""
    found: dict[str, Parser] = {}
    for name in COMMANDS:
        made: Parser = importlib.import_module(f".{name}", __package__).parser()
        found[f" {name}"] = made
        found |= {f" {name} {verb}": one for verb, one in made.verbs().items() if isinstance(one, Parser)}
    return found
