"""Our own log: one JSON object a line, as Cloud Logging reads it, and no flood of repetitions."""

import json
import logging
import sys

import pytest
import running

from function import logs

LOGGERS = ("audit", "uvicorn.error")


@pytest.fixture
def lines(capsys):
    """Return what was logged, line by line; the loggers are left as they were."""
    before = [(logging.getLogger(name), logging.getLogger(name).__dict__.copy()) for name in LOGGERS]
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for logger, state in before:
        logger.__dict__.update(state)
        logger.setLevel(state["level"])


def test_a_line_has_severity_message_and_time(lines):
    logs.configure("info")
    logging.getLogger("audit.server").info("hello %s", "wörld", extra={"hint": "none", "details": [1]})
    (line,) = lines()
    time_ = line.pop("time")
    assert line == {
        "severity": "INFO",
        "message": "hello wörld",
        "logger": "audit.server",
        "hint": "none",
        "details": [1],
    }
    assert len(time_) == 24
    assert time_[10] == "T"
    assert time_.endswith("Z")


@pytest.mark.parametrize("text", ['quo"te', "two\nlines", "\x00\x1b[31m", "x" * 100_000, "%s %d"])
def test_every_message_is_one_line_of_json(lines, text):
    logs.configure("info")
    logging.getLogger("audit").warning(text)
    (line,) = lines()
    assert line["message"] == text


def test_half_a_character_does_not_break_the_log():
    """Standard error writes what it cannot encode as an escape, which JSON reads back."""
    code = (
        "import logging; from function import logs; logs.configure('info'); logging.getLogger('audit').error('\\ud800')"
    )
    exit_code, _, err = running.run([sys.executable, "-c", code])
    assert exit_code == 0
    assert json.loads(err)["message"] == "\ud800"


def test_the_level_is_respected_and_uvicorn_only_warns(lines):
    logs.configure("warning")
    logging.getLogger("audit").info("no")
    logging.getLogger("uvicorn.error").info("no")
    logging.getLogger("uvicorn.error").warning("yes")
    logs.configure("debug")
    logging.getLogger("audit.x").debug("yes")
    assert [line["message"] for line in lines()] == ["yes", "yes"]


def test_configuring_twice_logs_once(lines):
    logs.configure("info")
    logs.configure("info")
    logging.getLogger("audit").info("once")
    assert len(lines()) == 1


def test_an_exception_is_part_of_the_line(lines):
    logs.configure("info")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("audit").exception("ours")
    (line,) = lines()
    assert (line["severity"], "RuntimeError: broken" in line["exception"]) == ("ERROR", True)


def record(message, seconds, *, level=logging.ERROR, name="audit.journal"):
    made = logging.LogRecord(name, level, __file__, 1, message, (), None)
    made.created = 1000.0 + seconds
    return made


def test_a_repetition_is_held_back_and_counted():
    """A full disk fails every review: one line in five seconds says so, and how often."""
    repeats = logs.RepeatFilter()
    passed = [repeats.filter(record("full", seconds / 100)) for seconds in range(1000)]
    assert passed.count(True) == 2
    last = record("full", 10.5)
    assert repeats.filter(last)
    assert last.repeated == 499


def test_what_differs_is_no_repetition():
    repeats = logs.RepeatFilter()
    assert repeats.filter(record("full", 0))
    assert repeats.filter(record("other", 0))
    assert repeats.filter(record("full", 0, name="audit.tls"))
    assert not repeats.filter(record("full", 1))
    assert all(repeats.filter(record("info", 0, level=logging.INFO)) for _ in range(3))


def test_a_clock_set_back_does_not_silence_the_log():
    repeats = logs.RepeatFilter()
    assert repeats.filter(record("full", 0))
    assert repeats.filter(record("full", -3600))


def test_what_is_remembered_is_bounded():
    repeats = logs.RepeatFilter()
    for i in range(5000):
        assert repeats.filter(record(f"message {i}", i))
    assert len(repeats._last) <= 1001
