"""The environment as settings: what is accepted, what is refused and how, and what is promised by default."""

import contextlib
import sys

import pytest
import running
from hypothesis import given
from hypothesis import strategies as st

from function.commands import settings as settings_command
from function.configuration.settings import SettingsError
from function.configuration.units import format_bytes, parse_bytes, parse_seconds
from function.startup import every_setting, load

DEFAULTS = {
    "PORT": "8080",
    "AUDIT_JOURNAL_DIR": "./journal",
    "AUDIT_FORMAT": "review",
    "AUDIT_FSYNC": "always",
    "AUDIT_SEGMENT_BYTES_MAX": "100MiB",
    "AUDIT_SEGMENT_AGE_MAX": "1h",
    "AUDIT_SEGMENT_COMPRESS": "none",
    "AUDIT_ARCHIVE_URL": "",
    "AUDIT_JOURNAL_BYTES_MAX": "1GiB",
    "AUDIT_JOURNAL_AGE_MAX": "none",
    "AUDIT_BODY_BYTES_MAX": "32MiB",
    "AUDIT_CLUSTER_NAME": "",
    "AUDIT_CLUSTERS_DIR": "",
    "AUDIT_CLUSTERS_POLICY_DIR": "",
    "AUDIT_CLUSTERS_REDACTION_DIR": "",
    "AUDIT_POLICY_FILE": "",
    "AUDIT_REDACTION_FILE": "",
    "AUDIT_REDACTION_KEY_FILE": "",
    "AUDIT_CHANGES": "0",
    "AUDIT_EVENT_STATUS": "none",
    "AUDIT_SEAL_KEY_FILE": "",
    "AUDIT_SEAL_SECONDS": "60",
    "AUDIT_SEAL_WITNESSES": "",
    "AUDIT_ANNOTATE": "recorded",
    "AUDIT_DRAIN_SECONDS": "5",
    "AUDIT_FORWARD_TO": "",
    "AUDIT_FORWARD_DRAIN_SECONDS": "10",
    "AUDIT_FORWARD_BATCH_SECONDS": "1",
    "AUDIT_METRICS_PORT": "55555",
    "AUDIT_TLS_CERT_FILE": "",
    "AUDIT_TLS_KEY_FILE": "",
    "AUDIT_LOG_LEVEL": "info",
    "AUDIT_WEBHOOK_URL": "",
    "AUDIT_WEBHOOK_CA_FILE": "",
    "AUDIT_WEBHOOK_TOKEN_FILE": "",
    "AUDIT_WEBHOOK_BATCH_RECORDS_MAX": "400",
    "AUDIT_WEBHOOK_BATCH_BYTES_MAX": "10MiB",
    "AUDIT_WEBHOOK_RECORD_BYTES_MAX": "256KiB",
    "AUDIT_CLOUDEVENTS_URL": "",
    "AUDIT_CLOUDEVENTS_CA_FILE": "",
    "AUDIT_CLOUDEVENTS_BATCH_RECORDS_MAX": "100",
    "AUDIT_CLOUDEVENTS_BATCH_BYTES_MAX": "5MiB",
    "AUDIT_CLOUDEVENTS_RECORD_BYTES_MAX": "1000000",
    "AUDIT_OTLP_URL": "",
    "AUDIT_OTLP_CA_FILE": "",
    "AUDIT_OTLP_TOKEN_FILE": "",
    "AUDIT_OTLP_HEADERS_FILE": "",
    "AUDIT_OTLP_COMPRESSION": "gzip",
    "AUDIT_OTLP_BATCH_RECORDS_MAX": "1000",
    "AUDIT_OTLP_BATCH_BYTES_MAX": "2MiB",
    "AUDIT_OTLP_RECORD_BYTES_MAX": "1000000",
    "K_SINK": "",
    "K_CE_OVERRIDES": "",
    "K_CA_CERTS": "",
    "AUDIT_ELASTICSEARCH_URL": "",
    "AUDIT_ELASTICSEARCH_INDEX": "kube-audit",
    "AUDIT_ELASTICSEARCH_TEMPLATE": "none",
    "AUDIT_ELASTICSEARCH_CA_FILE": "",
    "AUDIT_ELASTICSEARCH_API_KEY_FILE": "",
    "AUDIT_ELASTICSEARCH_USERNAME": "",
    "AUDIT_ELASTICSEARCH_PASSWORD_FILE": "",
    "AUDIT_ELASTICSEARCH_BATCH_RECORDS_MAX": "1000",
    "AUDIT_ELASTICSEARCH_BATCH_BYTES_MAX": "5MiB",
    "AUDIT_ELASTICSEARCH_RECORD_BYTES_MAX": "8MiB",
    "AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT": "",
    "AUDIT_GOOGLE_CLOUD_LOGGING_LOG_NAME": "kube-audit",
    "AUDIT_GOOGLE_CLOUD_LOGGING_LOCATION": "global",
    "AUDIT_GOOGLE_CLOUD_LOGGING_CLUSTER": "",
    "AUDIT_GOOGLE_CLOUD_LOGGING_URL": "",
    "AUDIT_GOOGLE_CLOUD_LOGGING_BATCH_RECORDS_MAX": "500",
    "AUDIT_GOOGLE_CLOUD_LOGGING_BATCH_BYTES_MAX": "5MB",
    "AUDIT_GOOGLE_CLOUD_LOGGING_RECORD_BYTES_MAX": "256KB",
    "AUDIT_WATCH_API_URL": "",
    "AUDIT_WATCH_TOKEN_FILE": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    "AUDIT_WATCH_CA_FILE": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    "AUDIT_WATCH_WEBHOOK_FILE": "",
    "AUDIT_WATCH_WEBHOOK_CA_FILE": "",
    "AUDIT_WATCH_CANARY_SECONDS": "60",
    "AUDIT_WATCH_CANARY_URL": "",
    "AUDIT_WATCH_CANARY_NAMESPACE": "kube-audit-function-canary",
}
COMMAND = [sys.executable, "-m", "function", "settings"]


def mistakes(**environ):
    """Return all that is wrong, by name."""
    with pytest.raises(SettingsError) as caught:
        load(environ)
    assert all(mistake.problem and mistake.hint for mistake in caught.value.mistakes)
    return {mistake.name: mistake for mistake in caught.value.mistakes}


def test_every_promised_default_is_kept():
    """Changing one breaks somebody's cluster: it needs a line in CHANGELOG.md."""
    assert {setting.name: setting.default for setting in every_setting()} == DEFAULTS


def test_an_empty_environment_is_a_whole_configuration():
    settings = load({"HOME": "/root", "KUBERNETES_PORT": "tcp://10.0.0.1:443"})
    assert (settings.serving.port, settings.serving.metrics_port, settings.serving.drain_seconds) == (8080, 55555, 5.0)
    assert (settings.serving.tls_cert_file, settings.serving.tls_key_file) == ("", "")
    recording = settings.recording
    assert (recording.format, recording.body_bytes_max, recording.changes) == ("review", 32 << 20, "0")
    assert (recording.cluster_name, recording.clusters_dir, recording.event_status) == ("", "", "none")
    assert (recording.policy_file, recording.redaction_file, recording.redaction_key_file) == ("", "", "")
    journal = settings.journal
    assert (journal.dir, journal.fsync) == ("./journal", "always")
    assert (journal.segment_bytes_max, journal.segment_age_max) == (100 << 20, 3600.0)
    assert (journal.bytes_max, journal.age_max) == (1 << 30, 0.0)
    assert settings.log_level == "info"


def test_an_empty_value_is_unset():
    """Manifests set variables to nothing: `value: ""`."""
    assert load({setting.name: "" for setting in every_setting()}) == load({})


@pytest.mark.parametrize(
    ("name", "value", "section", "field", "expected"),
    [
        ("PORT", "1", "serving", "port", 1),
        ("PORT", "65535", "serving", "port", 65535),
        ("AUDIT_METRICS_PORT", "0", "serving", "metrics_port", 0),
        ("AUDIT_DRAIN_SECONDS", "0", "serving", "drain_seconds", 0.0),
        ("AUDIT_DRAIN_SECONDS", "2.5", "serving", "drain_seconds", 2.5),
        ("AUDIT_DRAIN_SECONDS", "1m", "serving", "drain_seconds", 60.0),
        ("AUDIT_FORMAT", "event", "recording", "format", "event"),
        ("AUDIT_FSYNC", "everysec", "journal", "fsync", "everysec"),
        ("AUDIT_JOURNAL_DIR", "-", "journal", "dir", "-"),
        ("AUDIT_JOURNAL_BYTES_MAX", "0", "journal", "bytes_max", 0),
        ("AUDIT_JOURNAL_BYTES_MAX", "none", "journal", "bytes_max", 0),
        ("AUDIT_JOURNAL_BYTES_MAX", "10Gi", "journal", "bytes_max", 10 << 30),
        ("AUDIT_JOURNAL_AGE_MAX", "30d", "journal", "age_max", 30 * 86400.0),
        ("AUDIT_JOURNAL_AGE_MAX", "0", "journal", "age_max", 0.0),
        ("AUDIT_SEGMENT_BYTES_MAX", "1MB", "journal", "segment_bytes_max", 10**6),
        ("AUDIT_SEGMENT_AGE_MAX", "90s", "journal", "segment_age_max", 90.0),
        ("AUDIT_SEGMENT_AGE_MAX", "none", "journal", "segment_age_max", 0.0),
        ("AUDIT_BODY_BYTES_MAX", "128MiB", "recording", "body_bytes_max", 128 << 20),
        ("AUDIT_CLUSTER_NAME", "prod-eu_1.example", "recording", "cluster_name", "prod-eu_1.example"),
        ("AUDIT_CHANGES", "only", "recording", "changes", "only"),
    ],
)  # fmt: skip
def test_values(name, value, section, field, expected):
    assert getattr(getattr(load({name: value}), section), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"), ("PORT", "65536"), ("PORT", "http"), ("PORT", "-1"), ("PORT", "8080.0"), ("PORT", "9" * 20),
        ("PORT", "٣٤"), ("AUDIT_METRICS_PORT", "65536"), ("AUDIT_DRAIN_SECONDS", "-1"), ("AUDIT_DRAIN_SECONDS", "2h"),
        ("AUDIT_DRAIN_SECONDS", "nan"), ("AUDIT_DRAIN_SECONDS", "inf"), ("AUDIT_FORMAT", "Review"),
        ("AUDIT_FORMAT", "json"),
        ("AUDIT_FSYNC", "no"), ("AUDIT_FSYNC", "never"), ("AUDIT_BODY_BYTES_MAX", "0"),
        ("AUDIT_BODY_BYTES_MAX", "129MiB"),
        ("AUDIT_BODY_BYTES_MAX", "1 parsec"), ("AUDIT_SEGMENT_BYTES_MAX", "10"), ("AUDIT_SEGMENT_BYTES_MAX", "-1"),
        ("AUDIT_SEGMENT_AGE_MAX", "60"), ("AUDIT_SEGMENT_AGE_MAX", "1 hour"), ("AUDIT_JOURNAL_BYTES_MAX", "lots"),
        ("AUDIT_JOURNAL_BYTES_MAX", "9" * 5000), ("AUDIT_JOURNAL_BYTES_MAX", "9" * 400 + ".5GiB"),
        ("AUDIT_JOURNAL_AGE_MAX", "1w"), ("AUDIT_CLUSTER_NAME", "a/b"), ("AUDIT_CLUSTER_NAME", "-a"),
        ("AUDIT_CLUSTER_NAME", 'a"b'), ("AUDIT_CLUSTER_NAME", "a" * 254), ("AUDIT_CLUSTERS_DIR", "/nonexistent"),
        ("AUDIT_POLICY_FILE", "/nonexistent"), ("AUDIT_REDACTION_FILE", "/"),
        ("AUDIT_REDACTION_KEY_FILE", "/nonexistent"),
        ("AUDIT_CHANGES", "yes"), ("AUDIT_EVENT_STATUS", "true"), ("AUDIT_LOG_LEVEL", "INFO"),
        ("AUDIT_LOG_LEVEL", "trace"),
    ],
)  # fmt: skip
def test_values_that_are_refused(name, value):
    found = mistakes(**{name: value})
    assert set(found) == {name}
    assert found[name].value == value


def test_all_mistakes_are_reported_at_once():
    found = mistakes(
        PORT="x", AUDIT_FORMAT="y", AUDIT_JUORNAL_DIR="z", AUDIT_BODY_BYTES_MAX="1", AUDIT_TLS_CERT_FILE=__file__
    )
    assert set(found) == {"PORT", "AUDIT_FORMAT", "AUDIT_JUORNAL_DIR", "AUDIT_BODY_BYTES_MAX", "AUDIT_TLS_KEY_FILE"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("AUDIT_JUORNAL_DIR", "AUDIT_JOURNAL_DIR"),
        ("AUDIT_METRIC_PORT", "AUDIT_METRICS_PORT"),
        ("AUDIT_TLS_CERTFILE", "AUDIT_TLS_CERT_FILE"),
        ("AUDIT_FSNYC", "AUDIT_FSYNC"),
        ("AUDIT_MAX_BODY_BYTES", "AUDIT_BODY_BYTES_MAX"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, right):
    """Its value is not shown: nobody knows what it is."""
    found = mistakes(**{wrong: "9000"})
    assert set(found) == {wrong}
    assert right in found[wrong].hint
    assert "9000" not in str(found[wrong])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_SERVICE_HOST", "10.0.0.7"),
        ("AUDIT_SERVICE_PORT", "443"),
        ("AUDIT_SERVICE_PORT_HTTPS", "443"),
        ("AUDIT_PORT", "tcp://10.0.0.7:443"),
        ("AUDIT_PORT_443_TCP", "tcp://10.0.0.7:443"),
        ("AUDIT_PORT_443_TCP_PROTO", "tcp"),
        ("AUDIT_PORT_443_TCP_PORT", "443"),
        ("AUDIT_PORT_443_TCP_ADDR", "10.0.0.7"),
        ("AUDIT_METRICS_PORT", "tcp://10.0.0.8:80"),
        ("AUDIT_LOG_SINK_SERVICE_HOST", "10.0.0.8"),
        ("AUDIT_LOG_SINK_PORT_53_UDP_PORT", "53"),
        ("AUDIT_LOG_SINK_PORT", "tcp://10.0.0.8:9200"),
    ],
)
def test_service_links_of_the_kubelet_are_no_mistakes(name, value):
    assert load({name: value}) == load({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUDIT_ARCHIVE_URL", "s3://AKIA:f00dfeed@bucket/prefix"),
        ("AUDIT_ARCHIVE_URL", "az://container/prefix?sig=f00dfeed"),
        ("AUDIT_SEAL_WITNESSES", "https://user:f00dfeed@witness.example example.com/w+1a2b3c4d+BAwQ"),
        ("AUDIT_SEAL_KEY_FILE", "PRIVATE+KEY+example.com/log+1a2b3c4d+f00dfeed"),
        ("AUDIT_REDACTION_KEY_FILE", "f00dfeed" * 4),
    ],
)
def test_a_value_that_may_hold_a_secret_is_not_shown(name, value):
    """Credentials in a URL; a key where the name of its file belongs."""
    found = mistakes(**{name: value})
    assert set(found) == {name}
    assert "f00dfeed" not in str(found[name])
    code, out, err = running.run(COMMAND, {name: value})
    assert code == 1
    assert "f00dfeed" not in out + err


def test_a_file_that_is_not_there_is_shown():
    assert "'/nowhere/tls.key'" in str(mistakes(AUDIT_TLS_KEY_FILE="/nowhere/tls.key")["AUDIT_TLS_KEY_FILE"])


def test_contradictions():
    assert set(mistakes(AUDIT_TLS_KEY_FILE=__file__)) == {"AUDIT_TLS_CERT_FILE"}
    directory = str(running.ROOT)
    assert set(mistakes(AUDIT_CLUSTER_NAME="a", AUDIT_CLUSTERS_DIR=directory)) == {"AUDIT_CLUSTER_NAME"}
    assert set(mistakes(PORT="9000", AUDIT_METRICS_PORT="9000")) == {"AUDIT_METRICS_PORT"}


# -- sizes and durations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1048576", 1 << 20), ("100MiB", 100 << 20), ("100Mi", 100 << 20), ("1 GiB", 1 << 30), ("1gb", 10**9),
        ("1.5KiB", 1536), ("0.5M", 500_000), ("2TiB", 2 << 40), (" 7B ", 7),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1e3", "1.MiB", "-1", "1MiBs", "0x10", "1,5GiB", "1  GiB", "1PiB", "٣"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("1s", 1), ("1500ms", 1.5), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("1h1m1s1ms", 3661.001),
        ("250us", 0.00025), ("250µs", 0.00025), ("7ns", 7e-9), (" 2s ", 2),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1", "1d", "-1s", "1 s", "1s1", "1x", "s1", "1e3s", "."])
def test_durations_that_are_none(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_seconds(text)


@given(st.integers(0, 1 << 50), st.sampled_from([("", 1), ("KiB", 1 << 10), ("MB", 10**6), ("GiB", 1 << 30)]))
def test_sizes_read_back_what_was_written(count, unit):
    name, size = unit
    assert parse_bytes(f"{count}{name}") == count * size


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_durations_read_back_what_was_written(hours, minutes, seconds):
    assert parse_seconds(f"{hours}h{minutes}m{seconds}s") == pytest.approx(hours * 3600 + minutes * 60 + seconds)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_a_mistake(text):
    """Never another exception: the start would end in a traceback."""
    for setting in every_setting():
        if "\0" in text and setting.name.endswith(("_FILE", "_DIR")):
            continue  # no environment can hold it
        with contextlib.suppress(SettingsError):
            load({setting.name: text})


@given(st.floats(0, 1e15))
def test_sizes_for_people_read_back_about_the_same(count):
    shown = format_bytes(count)
    assert parse_bytes(shown) == pytest.approx(count, rel=0.06, abs=1)


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_shows_every_setting_with_the_value_in_force():
    code, out, err = running.run(COMMAND, {"AUDIT_FSYNC": "everysec", "PORT": "9999"})
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert set(rows) == {"NAME"} | {setting.name for setting in every_setting()}
    assert rows["AUDIT_FSYNC"].split()[1:3] == ["everysec", "always"]
    assert rows["PORT"].split()[1:3] == ["9999", "8080"]
    for setting in every_setting():
        assert rows[setting.name].endswith(setting.meaning)


def test_the_command_reports_mistakes_and_no_value_of_an_unknown_name():
    code, out, err = running.run(COMMAND, {"AUDIT_TOKEN": "s3cr3t-token", "PORT": "x"})
    assert code == 1
    assert "AUDIT_TOKEN" in err
    assert "PORT='x': not a whole number (hint: " in err
    assert "s3cr3t-token" not in out + err


def test_serve_does_not_start_with_mistakes():
    code, out, err = running.run(running.SERVE, {"AUDIT_FORMAT": "x", "AUDIT_TOKEN": "s3cr3t-token", "PORT": "0"})
    assert (code, out) == (2, "")
    assert [line.split("=")[0].split(":")[1].strip() for line in err.splitlines()] == [
        "AUDIT_TOKEN",
        "PORT",
        "AUDIT_FORMAT",
    ]
    assert "s3cr3t-token" not in err


def test_wrong_arguments_of_the_command_line():
    for arguments in (["settings", "--jsn"], ["serve", "8080"], ["nonsense"], []):
        code, out, err = running.run([sys.executable, "-m", "function", *arguments])
        assert (code, out) == (2, "")
        assert "usage: python -m function" in err or "there is no command 'nonsense'" in err
    code, out, _ = running.run([sys.executable, "-m", "function", "--help"])
    assert code == 0
    assert "serve" in out


def test_the_table_for_readers_has_a_row_for_each(capsys):
    assert settings_command.main(["-o", "markdown"]) == 0
    assert capsys.readouterr().out.strip() == settings_command.markdown()
    assert settings_command.markdown().count("\n") == len(every_setting()) + 1
