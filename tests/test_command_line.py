"""What all commands have alike: help, mistakes, closed pipes, JSON, completion."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import running

from function.__main__ import main
from function.commands import COMMANDS, completion
from function.version import VERSION

FUNCTION = [sys.executable, "-m", "function"]


def called(capfd, *arguments):
    code = main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def commands():
    """Return every command and subcommand."""
    return [path.split() for path in completion._parsers()]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_is_on_stdout_with_examples_that_parse(capfd, command):
    code, out, err = called(capfd, *command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: python -m function {' '.join(command)}")
    assert "examples:\n" in out
    examples = re.findall(r"python -m function ([^|<>)]+)", out.split("examples:")[1])
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example.split("\n")[0])
        completion._parsers()[f" {name}"].parse_args(arguments)
    assert called(capfd, "help", *command[:1])[0] == 0


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_mistake_is_usage_on_stderr_and_2(capfd, command):
    code, out, err = called(capfd, *command, "--nonsense")
    assert (code, out) == (2, "")
    assert f"usage: python -m function {command[0]}" in err
    assert "kube-audit-function: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shwo"], "there is no command 'shwo'; did you mean show?"),
        (["show", "--usr", "x"], "did you mean --user?"),
        (["clusters", "list", "--dirr=x"], "did you mean --dir?"),
        (["show", "--us", "x"], "unknown argument --us"),
    ],
)
def test_what_was_meant(capfd, arguments, said):
    code, _, err = called(capfd, *arguments)
    assert code == 2
    assert said in err


def test_the_version(capfd):
    assert called(capfd, "--version") == (0, f"kube-audit-function {VERSION}\n", "")


def test_without_a_command_it_lists_all(capfd):
    code, out, err = called(capfd)
    assert (code, out) == (2, "")
    assert called(capfd, "--help") == (0, err, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", err, re.MULTILINE)


@pytest.mark.parametrize("command", ["settings", "settings -o json", "completion bash", "show --help"])
def test_a_closed_pipe_is_quiet(command):
    """The reader is gone before the first byte: nothing of Python's is seen."""
    script = f"{shlex.join(FUNCTION)} {command} | true; echo ${{PIPESTATUS[0]}}"
    finished = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=running.ROOT)
    assert (finished.stdout, finished.stderr) == ("0\n", "")


def test_tables_are_json_as_well(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIT_FORMAT", "event")
    code, out, _ = called(capfd, "settings", "-o", "json")
    assert code == 0
    assert {"name": "AUDIT_FORMAT", "value": "event", "default": "review"}.items() <= json.loads(out)[2].items()
    directory = ["--dir", str(tmp_path)]
    assert called(capfd, "clusters", "list", *directory, "-o", "json")[1] == "[]\n"
    assert called(capfd, "clusters", "add", "prod", "--url", "https://a.example.com", *directory)[0] == 0
    (cluster,) = json.loads(called(capfd, "clusters", "list", *directory, "-o", "json")[1])
    assert (cluster["name"], cluster["tokens"]) == ("prod", 1)


def test_render_names_the_first_few_and_counts_the_rest(capfd, tmp_path):
    (tmp_path / "x").write_text("nonsense\n" * 1234)
    code, out, err = called(capfd, "render", str(tmp_path / "x"))
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert len(lines) == 12
    assert lines[0] == f"kube-audit-function: {tmp_path}/x:1: not JSON (a torn line?)"
    assert lines[-2:] == ["kube-audit-function: … and 1,224 more", "kube-audit-function: 1,234 left out"]


def completed(line):
    """Return what bash offers after a line."""
    words = line.split(" ")
    script = completion.script("bash") + (
        f"COMP_WORDS=({' '.join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        "_kube_audit_function; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd="/").stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kube-audit-function s", ["serve", "show", "settings"]),
        ("kube-audit-function show --fo", ["--follow"]),
        ("kube-audit-function show --output ", ["text", "wide", "json", "yaml", "name"]),
        ("kube-audit-function clusters r", ["rotate", "remove"]),
        ("kube-audit-function clusters rotate --fi", ["--finish"]),
        ("kube-audit-function completion ", ["bash", "zsh"]),
        ("kube-audit-function show --follow /et", ["/etc"]),
        ("kube-audit-function forward --sup", []),
    ],
)
def test_completion_in_bash(line, offered):
    assert completed(line) == offered


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_completion_in_zsh():
    """As zsh's own bashcompinit calls it: what begins otherwise zsh leaves out itself."""
    script = "autoload -U compinit && compinit -D\n" + completion.script("zsh")
    script += (
        "call() { emulate -L sh; setopt kshglob noshglob braceexpand; COMP_WORDS=(kube-audit-function clusters r)\n"
        'COMP_CWORD=2; _kube_audit_function; print -l "${COMPREPLY[@]}"; }; call'
    )
    finished = subprocess.run(["zsh", "-fc", script], capture_output=True, text=True, check=True)
    offered = [word for word in finished.stdout.split() if word.startswith("r")]
    assert (offered, finished.stderr) == (["rotate", "remove"], "")
