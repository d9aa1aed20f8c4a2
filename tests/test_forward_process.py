"""The forwarder as a process: child of `serve`, sidecar, job; killed, restarted, drained, left alone by its parent."""

import contextlib
import json
import os
import pty
import random
import re
import signal
import statistics
import sys
import threading
import time

import pytest
import running
from backends import (
    CloudEvents,
    Elasticsearch,
    line_for,
    review_line,
    running_backend,
    settings_for,
    write_journal,
)
from sinks import KINDS

OURS = "kube_audit_function_"
FORWARD = [sys.executable, "-m", "function", "forward"]


def of_sink(name, sink="elasticsearch"):
    return f'{OURS}{name}{{sink="{sink}"}}'


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def child_of(server):
    """Return the pid of the forwarder, whichever thread started it."""
    found = []
    for thread in os.listdir(f"/proc/{server.pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{server.pid}/task/{thread}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found[0] if found else None


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def serving(backend, sink="elasticsearch", **more):
    environ = settings_for(sink, backend, **more)
    del environ["AUDIT_JOURNAL_DIR"]
    return running.serve(environ)


# -- under serve ----------------------------------------------------------------------------------------------------


def test_records_are_forwarded_and_the_last_ones_after_sigterm():
    with running_backend(Elasticsearch) as backend, serving(backend) as server:
        assert "elasticsearch" in server.logged("recording reviews")["message"]
        for number in range(20):
            assert server.post(running.review(f"uid-{number:08d}")).status == 200
        running.wait_for(lambda: len(backend.documents) == 20, 15)

        def told():
            samples = server.metrics()
            return samples[of_sink("forwarded_records_total")] == 20 and samples

        samples = running.wait_for(told)
        assert samples[of_sink("forward_lag_records")] == samples[of_sink("forward_lag_seconds")] == 0
        assert samples[of_sink("forward_retried_records_total")] == 0
        assert time.time() - samples[of_sink("forward_last_success_timestamp_seconds")] < 60
        assert (samples[f"{OURS}forwarder_running"], samples[f"{OURS}forwarder_starts_total"]) == (1, 1)
        for number in range(20, 40):
            assert server.post(running.review(f"uid-{number:08d}")).status == 200
        server.signal()
        assert server.wait() == 0
        assert len(backend.documents) == 40
        assert set(backend.firsts()) == set(range(40))
        assert not any("Traceback" in line.get("exception", "") for line in server.log())


def test_a_sink_that_is_down_delays_the_end_no_longer_than_allowed():
    """And it is said how many records were left; the next process on this volume forwards them."""
    with running_backend(Elasticsearch) as backend:
        backend.down = True
        with serving(backend, AUDIT_FORWARD_DRAIN_SECONDS="0.5") as server:
            for number in range(7):
                assert server.post(running.review(f"uid-{number:08d}")).status == 200
            running.wait_for(lambda: server.metrics()[of_sink("forward_lag_records")] == 7, 10)
            assert server.metrics()[of_sink("forward_lag_bytes")] == sum(len(line) + 1 for line in server.lines())
            started = time.monotonic()
            server.signal()
            assert server.wait() == 0
            assert time.monotonic() - started < 5 + running.BUSY_SECONDS
            line = server.logged("were not forwarded")
            assert line["message"].startswith("forward: 7 records were not forwarded")
            assert line["hint"]
            backend.down = False
            environ = settings_for("elasticsearch", backend, server.journal)
            code, out, err = running.run([*FORWARD, "--once"], environ)
            assert code == 0, err
            assert out.startswith("elasticsearch: 7 forwarded, 0 rejected, 0 truncated")
            assert sorted(backend.firsts()) == list(range(7))


def test_a_forwarder_that_is_killed_is_started_again():
    with running_backend(Elasticsearch) as backend, serving(backend) as server:
        assert server.post(running.review("uid-00000001")).status == 200
        running.wait_for(lambda: backend.documents, 15)
        os.kill(child_of(server), signal.SIGKILL)
        server.logged("the forwarder ended (exit code -9)")
        assert server.post(running.review("uid-00000002")).status == 200
        running.wait_for(lambda: len(backend.documents) == 2, 15)
        assert server.metrics()[f"{OURS}forwarder_starts_total"] == 2


def test_a_forwarder_ends_when_its_parent_is_gone():
    """A killed parent says nothing: the pipe does."""
    with running_backend(Elasticsearch) as backend, serving(backend) as server:
        child = running.wait_for(lambda: child_of(server))
        assert server.post(running.review("uid-00000001")).status == 200
        running.wait_for(lambda: backend.documents, 15)
        server.signal(signal.SIGKILL)
        running.wait_for(lambda: not is_running(child))


def test_the_second_signal_cuts_the_drain_short():
    with running_backend(Elasticsearch) as backend:
        backend.down = True
        with serving(backend, AUDIT_FORWARD_DRAIN_SECONDS="60") as server:
            assert server.post(running.review("uid-00000001")).status == 200
            running.wait_for(lambda: backend.requests, 15)
            server.signal()
            time.sleep(0.5)
            assert server.process.poll() is None
            server.signal()
            server.wait(5)
            assert child_of_is_gone(server)


def child_of_is_gone(server):
    return not os.path.exists(f"/proc/{server.pid}/task/{server.pid}/children") or not children(server.pid)


def test_a_sink_that_stays_down_costs_bounded_disk_and_what_had_to_go_is_counted():
    """When it is back, all that is still there arrives: nothing is missing that was not counted as lost."""
    env = {"AUDIT_JOURNAL_BYTES_MAX": "60000", "AUDIT_SEGMENT_BYTES_MAX": "5000"}
    lost = f'{OURS}records_lost_total{{reason="retention"}}'
    with running_backend(Elasticsearch) as backend:
        backend.down = True
        with serving(backend, AUDIT_ELASTICSEARCH_BATCH_RECORDS_MAX="5", **env) as server:
            for number in range(100):
                assert server.post(running.review(f"uid-{number:08d}", object={"data": "x" * 1000})).status == 200
            running.wait_for(lambda: server.metrics()[lost] > 0, 15)

            def size():
                return sum(path.stat().st_size for path in server.journal.rglob("*") if path.is_file())

            running.wait_for(lambda: size() <= 60_000)
            left = len(server.lines())
            assert server.metrics()[lost] + left >= 100
            backend.down = False
            running.wait_for(lambda: server.metrics()[of_sink("forward_lag_records")] == 0 and backend.documents, 15)
            running.wait_for(lambda: len(backend.documents) + server.metrics()[lost] >= 100)
            assert set(backend.firsts()) >= {int(record["request"]["uid"][4:]) for record in server.records()}


# -- by itself ------------------------------------------------------------------------------------------------------


def test_once_forwards_all_to_one_sink_though_another_cannot_work(tmp_path):
    """Sinks are independent: exit code 1, and what the other one could have is there."""
    write_journal(tmp_path / "journal", [review_line(number) for number in range(500)])
    (tmp_path / "ca.pem").write_text("no certificate")
    more = {"AUDIT_OTLP_URL": "https://127.0.0.1:9", "AUDIT_OTLP_CA_FILE": str(tmp_path / "ca.pem")}
    with running_backend(CloudEvents) as backend:
        environ = settings_for("cloudevents", backend, tmp_path / "journal", **more)
        environ["AUDIT_FORWARD_TO"] = "otlp,cloudevents"
        code, out, err = running.run([*FORWARD, "--once"], environ)
        assert code == 1
        assert "otlp: 0 forwarded, 0 rejected, 0 truncated, 0 retried, 500 left" in out
        assert len(backend.received) == 500
        assert "the CA certificates cannot be used" in err


def test_once_forwards_everything_with_a_progress_bar_on_a_terminal(tmp_path):
    """Living writers' directories too; then it ends."""
    write_journal(tmp_path, [review_line(number) for number in range(300)], host="some-pod", close=False)
    write_journal(tmp_path, [review_line(number) for number in range(300, 500)], host="other-pod")
    with running_backend(Elasticsearch) as backend:
        environ = running.clean_environment() | settings_for("elasticsearch", backend, tmp_path)
        master, slave = pty.openpty()
        process = running.subprocess.Popen(
            [*FORWARD, "--once"], cwd=running.ROOT, env=environ, stdout=running.subprocess.PIPE, stderr=slave
        )
        os.close(slave)
        out, _ = process.communicate(timeout=30)
        shown = b""
        with contextlib.suppress(OSError):
            while part := os.read(master, 65536):
                shown += part
        os.close(master)
        assert process.returncode == 0
        assert out == b"elasticsearch: 500 forwarded, 0 rejected, 0 truncated, 0 retried, 0 left\n"
        assert b"records" in shown
        assert sorted(backend.firsts()) == list(range(500))
        code, out, _ = running.run([*FORWARD, "--once"], settings_for("elasticsearch", backend, tmp_path))
        assert (code, out) == (0, "elasticsearch: 0 forwarded, 0 rejected, 0 truncated, 0 retried, 0 left\n")


def test_a_sidecar_forwards_until_sigterm_and_shows_metrics_of_its_own(tmp_path):
    port = running.free_port()
    directory = write_journal(tmp_path, [review_line(number) for number in range(50)], close=False)
    with running_backend(Elasticsearch) as backend:
        environ = settings_for("elasticsearch", backend, tmp_path, AUDIT_METRICS_PORT=str(port), PORT="1")
        process = running.start(FORWARD, environ)
        server = running.Server(process, 1, port, tmp_path, "http")
        try:
            running.wait_for(lambda: len(backend.documents) == 50, 15)
            running.wait_for(lambda: server.metrics()[of_sink("forwarded_records_total")] == 50)
            backend.down = True
            with open(os.path.join(directory, "audit-00000000000000000002.ndjson"), "wb") as file:
                file.write(review_line(50))
            running.wait_for(lambda: server.metrics()[of_sink("forward_lag_records")] == 1)
            backend.down = False
            server.signal()
            assert server.wait() == 0
            assert len(backend.documents) == 51
        finally:
            running.stop(process)


def test_check_says_what_became_of_a_test_record(tmp_path):
    with running_backend(Elasticsearch) as backend, running_backend(CloudEvents) as other:
        other.answer = (403, {}, b"")
        environ = settings_for("elasticsearch", backend, tmp_path, AUDIT_CLOUDEVENTS_URL=other.url)
        code, out, _ = running.run([*FORWARD, "--check"], environ)
        assert (code, len(out.splitlines())) == (0, 1)
        assert re.match(r"elasticsearch \(127\.0\.0\.1:\d+\): delivered in \d+ ms", out)
        code, out, _ = running.run([*FORWARD, "--check"], environ | {"AUDIT_FORWARD_TO": "elasticsearch,cloudevents"})
        assert code == 1
        assert re.fullmatch(r"cloudevents \(.+\): not delivered, would be retried: HTTP 403", out.splitlines()[1])
        code, out, _ = running.run([*FORWARD, "--check", "-o", "json"], environ)
        found = json.loads(out)[0]
        assert (found["sink"], found["delivered"], found["target"]) == ("elasticsearch", True, backend.url[7:])
        assert os.listdir(tmp_path) == []


def test_wrong_arguments_and_settings():
    code, out, err = running.run([*FORWARD, "--twice"])
    assert (code, out) == (2, "")
    assert "usage: python -m function forward" in err
    code, out, err = running.run(FORWARD)
    assert (code, out) == (2, "")
    assert "AUDIT_FORWARD_TO: not set" in err
    code, _, err = running.run(FORWARD, {"AUDIT_FORWARD_TO": "elasticsearch"})
    assert code == 2
    assert "AUDIT_ELASTICSEARCH_URL" in err


@pytest.mark.parametrize("command", [running.SERVE, FORWARD])
def test_stdout_is_no_journal_to_forward(command):
    environ = {"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://127.0.0.1:1/", "AUDIT_JOURNAL_DIR": "-"}
    code, _, err = running.run(command, environ)
    assert code == 2
    assert "AUDIT_JOURNAL_DIR" in err
    assert "hint" in err


@pytest.mark.parametrize(
    "host", ["import handler", "import function; function.new().start(dict(__import__('os').environ))"]
)
def test_hosts_without_a_forwarder_refuse_to_pretend(host):
    """functions-framework and Knative func: with a hint to run it beside."""
    environ = {"AUDIT_FORWARD_TO": "cloudevents", "K_SINK": "http://127.0.0.1:1/"}
    code, _, err = running.run([sys.executable, "-c", host], environ)
    assert code == 2
    assert "AUDIT_FORWARD_TO" in err
    assert "python -m function forward" in err


def test_only_the_sinks_that_are_asked_for_are_imported(tmp_path):
    """Google's client takes half a second and 55 MB."""
    code = (
        "import sys; from function.commands.forward import main\n"
        "assert main(['--once']) == 0\n"
        "others = {'google.auth', 'google.cloud.logging_v2', 'google.protobuf', 'grpc', 'cloudevents'}\n"
        "print(sorted((others | {'opentelemetry'}) & set(sys.modules)))"
    )
    with running_backend(Elasticsearch) as backend:
        environ = settings_for("elasticsearch", backend, tmp_path)
        code, out, err = running.run([sys.executable, "-c", code], environ)
    assert code == 0, err
    assert out.splitlines()[-1] == "[]"


# -- killed again and again -----------------------------------------------------------------------------------------


def survive(sink, records, journal, *, kill_seconds, limit_seconds, batch="", segment_bytes=1 << 20, slot_seconds=0.0):
    """Forward while a fifth of the requests fail and the forwarder is killed; return the backend's counts."""
    write_journal(journal, [line_for(sink, number) for number in range(records)], segment_bytes=segment_bytes)
    chance = random.Random(5)
    with running_backend(KINDS[sink], rate=0.2, slot_seconds=slot_seconds) as backend:
        prefix = {"audit-webhook": "WEBHOOK"}.get(sink, sink.upper().replace("-", "_"))
        more = {f"AUDIT_{prefix}_BATCH_RECORDS_MAX": batch} if batch else {}
        environ = settings_for(sink, backend, journal, **more)
        kills = 0
        until = time.monotonic() + limit_seconds
        while True:
            process = running.start([*FORWARD, "--once"], environ)
            try:
                process.wait(chance.uniform(0.5, 1.5) * kill_seconds if time.monotonic() < until else 60)
                break
            except running.subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            finally:
                running.stop(process)
        assert process.returncode == 0
        firsts = backend.firsts()
        assert len(firsts) == records
        assert sorted(firsts) == list(range(records))
        ids = backend.ids()
        assert len(set(ids)) == records
        if sink in ("audit-webhook", "cloudevents", "otlp"):
            assert firsts == list(range(records))
        print(f"{sink}: {records} records, {kills} kills, {len(ids) - records} duplicates")
        assert not os.path.exists(os.path.join(journal, "rejected"))
        return kills, len(ids) - records


@pytest.mark.parametrize("sink", ["audit-webhook", "elasticsearch"])
def test_killed_again_and_again_every_record_arrives_in_order(sink, tmp_path):
    kills, _ = survive(sink, 4000, tmp_path, kill_seconds=0.4, limit_seconds=2, batch="20", segment_bytes=100_000)
    assert kills > 0


@pytest.mark.long
@pytest.mark.parametrize("sink", KINDS)
def test_a_hundred_thousand_records_killed_every_few_seconds(sink, tmp_path):
    # One event a request: a fifth of the time instead of a fifth of the requests.
    slot_seconds = 0.25 if sink == "cloudevents" else 0.0
    survive(sink, 100_000, tmp_path, kill_seconds=3, limit_seconds=30, slot_seconds=slot_seconds)


@pytest.mark.long
def test_a_sink_that_is_down_refuses_no_review():
    """Every review is answered 200 meanwhile, and all arrive afterwards; the p99 is printed, not judged."""
    with running_backend(Elasticsearch) as backend:
        backend.down = True
        with (
            running.serve({"AUDIT_FSYNC": "everysec"}) as plain,
            serving(backend, AUDIT_FSYNC="everysec") as forwarding,
        ):
            p99 = {plain: [], forwarding: []}
            for turn in range(6):
                for server in (plain, forwarding):
                    p99[server].append(latency(server, turn))
            ratio = statistics.median(p99[forwarding]) / statistics.median(p99[plain])
            print(f"p99 with a sink that is down: {ratio:.2f} of no forwarding")
            backend.down = False
            lines = len(forwarding.lines())
            running.wait_for(lambda: len(backend.documents) == lines, 40)


def latency(server, turn):
    connection = server.connect()
    times = []
    for number in range(400):
        body = running.review(f"uid-{turn:04d}{number:04d}")
        started = time.perf_counter()
        assert running.ask(connection, "POST", "/log-request?timeout=10s", body).status == 200
        times.append(time.perf_counter() - started)
    connection.close()
    return sorted(times)[int(0.99 * len(times))]


def test_the_forwarder_alone_is_idle(tmp_path):
    """A second and a half of nothing costs less than a twentieth of a second of CPU."""
    write_journal(tmp_path, [review_line(number) for number in range(10)], close=False)
    with running_backend(Elasticsearch) as backend:
        process = running.start(FORWARD, settings_for("elasticsearch", backend, tmp_path, AUDIT_METRICS_PORT="0"))
        try:
            running.wait_for(lambda: len(backend.documents) == 10, 15)
            before = cpu_seconds(process.pid)
            time.sleep(1.5)
            used = cpu_seconds(process.pid) - before
            print(f"idle: {used / 1.5:.3f} of a core")
            assert used <= 0.05
        finally:
            running.stop(process)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_two_forwarders_on_one_volume_do_not_send_twice(tmp_path):
    """One has the lease, the other waits."""
    write_journal(tmp_path, [review_line(number) for number in range(2000)], segment_bytes=50_000)
    with running_backend(Elasticsearch) as backend:
        environ = settings_for("elasticsearch", backend, tmp_path, AUDIT_METRICS_PORT="0")
        processes = [running.start(FORWARD, environ) for _ in range(2)]
        try:
            running.wait_for(lambda: len(backend.documents) == 2000, 20)
            assert backend.conflicts == 0
        finally:
            for process in processes:
                running.stop(process)


def test_status_lines_are_what_the_parent_reads(tmp_path):
    """On standard output of a supervised forwarder: one JSON object a line, and nothing else."""
    write_journal(tmp_path, [review_line(number) for number in range(10)])
    with running_backend(Elasticsearch) as backend:
        environ = running.clean_environment() | settings_for("elasticsearch", backend, tmp_path)
        process = running.subprocess.Popen(
            [*FORWARD, "--supervised"],
            cwd=running.ROOT,
            env=environ,
            stdin=running.subprocess.PIPE,
            stdout=running.subprocess.PIPE,
            stderr=running.subprocess.PIPE,
        )
        timer = threading.Timer(0.5, lambda: (process.stdin.write(b"drain\n"), process.stdin.flush()))
        timer.start()
        lines = [json.loads(line) for line in process.stdout]
        assert process.wait(10) == 0
        assert lines[-1]["elasticsearch"]["forwarded"] == 10
        assert lines[-1]["elasticsearch"]["lag_records"] == 0
        process.stdin.close()
        process.stdout.close()
        process.stderr.close()
