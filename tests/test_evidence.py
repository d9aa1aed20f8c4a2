"""Evidence as its users have it: a sealed function, its keys, the commands, anchors, sinks, witnesses."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import stat
import sys
import threading
import time

import pytest
import running
from backends import Elasticsearch, running_backend, settings_for
from running import review
from sealed import KEY, NEW_KEY, SealedJournal, directories, line, verified, wrong

from function.evidence.anchors import Anchors, TreeHead, read_anchors
from function.forwarding.sealed import CheckpointReader, is_through
from function.forwarding.witnesses import WitnessWorker
from function.forwarding.worker import Channel
from function.journal import DeadlinePassed, Entry, Journal, StdoutWriter
from function.journal.files import Files
from function.record import reading
from function.record.checkpoint_record import checkpoint_record
from function.transparency import checkpoint as checkpoints
from function.transparency import note as notes
from function.transparency import proof as proofs
from function.transparency import statement as statements
from function.transparency.keys import KeyType, SignerKey, parse_verifier_key
from function.transparency.note import Note, Signature
from function.transparency.paths import check_consistency
from function.transparency.tree import EMPTY
from function.transparency.witness import parse_add_checkpoint

COMMAND = [sys.executable, "-m", "function"]
VKEY = str(KEY.verifier)


def run(*arguments, **more):
    return running.run([*COMMAND, *map(str, arguments)], **more)


def sealed_env(tmp_path, *keys, **more):
    file = tmp_path / "seal.key"
    file.write_text("".join(f"{key.text()}\n" for key in keys or (KEY,)))
    file.chmod(0o600)
    return {"AUDIT_SEAL_KEY_FILE": str(file), "AUDIT_SEAL_SECONDS": "1", "AUDIT_CLUSTER_NAME": "prod"} | more


@pytest.fixture(scope="module")
def journal(tmp_path_factory, review_bodies):
    """What the real function wrote of recorded reviews: two processes, the first one killed, both formats."""
    path = tmp_path_factory.mktemp("sealed")
    env = sealed_env(path, AUDIT_SEGMENT_BYTES_MAX="64KiB")
    with running.serve(env, journal=path / "journal") as server:
        for body in review_bodies[:60]:
            assert server.post(body).status == 200
        server.signal(signal.SIGKILL)
        server.process.wait(10)
    with running.serve(env | {"AUDIT_FORMAT": "event"}, journal=path / "journal") as server:
        for number, body in enumerate([*review_bodies[60:120], review("find-me")]):
            assert server.post(body).status == 200, number
        server.signal()
        assert server.wait() == 0
    return path / "journal"


@pytest.fixture
def copy(journal, tmp_path):
    return shutil.copytree(journal, tmp_path / "copy")


# -- keys -----------------------------------------------------------------------------------------------------------


def test_keys_new_and_show(tmp_path):
    """The secret goes into a file for its owner alone, the verifier key to standard output, and nothing over a key."""
    file = tmp_path / "key"
    code, out, err = run("keys", "new", "example.com/audit", "--out", file)
    assert code == 0
    assert parse_verifier_key(out.strip()).name == "example.com/audit"
    assert "PRIVATE" not in out + err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("keys", "show", file)[:2] == (0, out)
    code, _, err = run("keys", "new", "example.com/audit", "--out", file)
    assert (code, "is there already" in err) == (1, True)
    assert run("keys", "new", "two words", "--out", tmp_path / "other")[0] == 1
    assert not (tmp_path / "other").exists()
    assert run("keys")[0] == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "holds no key"), (VKEY, "begins with PRIVATE+KEY+"), (f"{KEY.text()}\n{KEY.text()}\n", "holds a key twice")],
)
def test_a_key_file_that_cannot_be_used_ends_the_start(tmp_path, content, problem):
    (tmp_path / "key").write_text(content)
    env = {"AUDIT_SEAL_KEY_FILE": str(tmp_path / "key"), "AUDIT_JOURNAL_DIR": str(tmp_path / "journal")}
    code, _, err = running.run(running.SERVE, env)
    assert code == 2
    assert f"AUDIT_SEAL_KEY_FILE: {problem}" in err or problem in err
    assert "docs/evidence.md" in err


def test_without_a_key_nothing_of_it_is_imported(tmp_path):
    """Off by default costs nothing: neither the room nor cryptography is loaded by the process that answers."""
    code = (
        "import sys, asyncio, os\n"
        "from function import startup\n"
        "service = startup.service_or_exit(os.environ, forwards=True)\n"
        "async def main():\n"
        "    service.open(); service.close_now()\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if 'transparency' in name or name.split('.')[0] == 'cryptography'"
        " or name in ('function.journal.sealing', 'function.journal.statements', 'function.evidence')])\n"
    )
    env = {"AUDIT_JOURNAL_DIR": str(tmp_path), "AUDIT_METRICS_PORT": "0"}
    exit_code, out, err = running.run([sys.executable, "-c", code], env)
    assert (exit_code, out.strip()) == (0, "[]"), err


# -- what the function wrote ----------------------------------------------------------------------------------------


def test_what_the_real_function_wrote_verifies(journal):
    code, out, _ = run("verify", journal, "--key", VKEY)
    assert code == 0, out
    assert out.splitlines()[-1].startswith("proved: ")
    code, out, _ = run("verify", journal, "--key", VKEY, "--json")
    document = json.loads(out)
    assert (code, document["result"]) == (0, "proved")
    first, second = sorted(document["directories"], key=lambda one: one["entries"])  # started in one second, perhaps
    assert first["origin"].startswith("example.com/audit/prod/")
    assert second["sealed"] == second["entries"] == 61
    assert first["entries"] == 60


@pytest.mark.parametrize("source", ["checkpoint", "anchors"])
def test_a_changed_line_is_found_where_it_is(copy, tmp_path, source):
    """By checkpoints alone in its segment; beside a checkpoint kept elsewhere too."""
    kept = tmp_path / "kept"
    kept.write_text(run("checkpoint", copy, "--all")[1])
    assert run("verify", copy, "--key", VKEY, "--anchors", kept)[0] == 0
    segment = next(one for one in copy.glob("*/audit-*.ndjson") if b"find-me" in one.read_bytes())
    changed = segment.read_bytes().replace(b"find-me", b"find-it", 1)
    segment.write_bytes(changed)
    anchors = ["--anchors", kept] if source == "anchors" else []
    code, out, _ = run("verify", copy, "--key", VKEY, *anchors, "--json")
    assert code == 1
    (finding,) = [one for one in json.loads(out)["findings"] if one["level"] == "wrong"]
    number = int(segment.stem.rpartition("-")[2])
    assert finding["segment"] == number
    lines = changed.split(b"\n")
    at = next(i for i, one in enumerate(lines, 1) if b"find-it" in one)
    assert finding["lines"][0] <= at <= finding["lines"][1]
    assert f"segment {number} line" in finding["text"]


def test_verify_cannot_tell_without_the_right_key(journal, tmp_path):
    code, out, _ = run("verify", journal, "--key", str(NEW_KEY.verifier))
    assert code == 2
    assert f"signed by {KEY.name}+{KEY.verifier.key_id.hex()}, whose key was not given" in out
    assert run("verify", journal)[0] == 2
    assert run("verify", tmp_path, "--key", VKEY)[0] == 2
    assert run("verify", tmp_path / "none", "--key", VKEY)[0] == 2
    assert run("verify", journal, "--key", "nonsense")[0] == 2
    (tmp_path / "keys").write_text(f"# the function's\n{VKEY}\n")
    assert run("verify", journal, "--key", tmp_path / "keys")[0] == 0


def test_a_journal_that_was_never_sealed_is_not_called_proved(tmp_path):
    """What journald's verification got wrong once."""
    with running.serve(journal=tmp_path / "journal") as server:
        assert server.post(review("unsealed")).status == 200
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY)
    assert code == 2
    assert "never sealed" in out


def test_verify_on_many_cores_says_the_same(journal):
    alone = run("verify", journal, "--key", VKEY, "--jobs", 1)
    assert run("verify", journal, "--key", VKEY, "--jobs", 2) == alone


def test_prove_one_entry(journal, tmp_path):
    """A proof and a line for a ticket: they verify without the journal, and no other line does."""
    code, out, err = run("prove", journal, "find-me", "--out", tmp_path)
    assert code == 0, err
    assert "find-me.tlog-proof: entry 61, line " in out
    proof, entry = tmp_path / "find-me.tlog-proof", tmp_path / "find-me.json"
    assert reading.read(entry.read_bytes()).uid == "find-me"
    assert proofs.parse(proof.read_bytes()).index == 60
    code, out, _ = run("verify", "--proof", proof, "--key", VKEY)
    assert (code, "is entry 61 of " in out) == (0, True)
    entry.write_bytes(entry.read_bytes().replace(b"find-me", b"find-it"))
    assert run("verify", "--proof", proof, "--key", VKEY)[0] == 1
    assert run("verify", "--proof", proof, "--key", str(NEW_KEY.verifier))[0] == 2
    code, _, err = run("prove", journal, "nobody")
    assert (code, "no record" in err) == (1, True)


@pytest.mark.long
def test_prove_every_entry_of_a_journal_with_faults(tmp_path):
    """Across segments, from the nearest edge that is known."""
    journal = SealedJournal(tmp_path / "journal", segment_bytes=900)
    lines = [
        b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u%d","resource":{"group":"",'
        b'"version":"v1","resource":"pods"},"operation":"CREATE","userInfo":{}},"requestReceivedTimestamp":'
        b'"2026-11-24T11:43:52.395011123Z"}\n' % number
        for number in range(12)
    ]
    for number in range(0, 12, 2):
        journal.store(*lines[number : number + 2])
    journal.close()
    for number in range(12):
        assert run("prove", tmp_path / "journal", f"u{number}", "--out", tmp_path)[0] == 0
    files = [tmp_path / f"u{number}.tlog-proof" for number in range(12)]
    code, out, _ = run("verify", "--key", VKEY, "--proof", *files)
    assert code == 0
    assert [f"is entry {number + 1} of" in text for number, text in enumerate(out.splitlines())] == [True] * 12


def test_checkpoint_prints_the_newest(journal, tmp_path):
    code, out, _ = run("checkpoint", journal)
    assert code == 0
    opened = checkpoints.verify(out.encode(), out.partition("\n")[0], [KEY.verifier])
    assert opened.checkpoint.size == 61
    assert len(checkpoints.split(run("checkpoint", journal, "--all")[1].encode())[0]) == 2
    assert run("checkpoint", tmp_path)[0] == 1
    assert run("checkpoint", tmp_path / "none")[0] == 2


# -- rotation, anchors ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_keys_are_rotated_with_overlap_and_without_a_restart(tmp_path):
    env = sealed_env(tmp_path)
    file = tmp_path / "seal.key"
    command = running.bounded(reload_seconds=0.1)
    with running.serve(env, journal=tmp_path / "journal", command=command) as server:
        for keys in ((KEY,), (KEY, NEW_KEY), (NEW_KEY,)):
            file.write_text("".join(f"{key.text()}\n" for key in keys))
            if keys != (KEY,):
                said = "signing with " + ", ".join(str(key.verifier) for key in keys)
                running.wait_for(lambda said=said: any(one["message"].endswith(said) for one in server.log()))
            assert server.post(review("rotated")).status == 200
            size = server.metrics()["kube_audit_function_checkpoint_entries"]
            running.wait_for(lambda size=size: server.metrics()["kube_audit_function_checkpoint_entries"] > size)
        file.write_text("broken")
        running.wait_for(
            lambda: server.metrics()['kube_audit_function_config_last_reload_successful{config="seal_key"}'] == 0, 5
        )
        assert not any(key.text().encode() in bytes(server.stderr) for key in (KEY, NEW_KEY))
        server.signal()
        assert server.wait() == 0
    new, old = str(NEW_KEY.verifier), VKEY
    assert run("verify", tmp_path / "journal", "--key", new, "--old-key", old)[0] == 0
    assert run("verify", tmp_path / "journal", "--key", new)[0] == 2


def test_the_head_of_an_answer_is_an_anchor(tmp_path):
    """As the native log has it: annotations under the webhook's name, in an Event of any wrapping."""
    journal = SealedJournal(tmp_path / "journal")
    for number in range(9):
        journal.store(line(number))
    journal.close()
    native = tmp_path / "native.log"
    events = []
    for size, root, directory in journal.heads:
        annotations = {
            "audit.example/tree": f"{size} {notes.base64.b64encode(root).decode()}",
            "audit.example/recorded": f"{directory}/1/0",
        }
        events.append(native_event(annotations))
    native.write_text("".join(json.dumps(one) + "\n" for one in events))
    assert run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", native)[0] == 0
    events[4]["annotations"]["audit.example/tree"] = events[5]["annotations"]["audit.example/tree"].replace("6", "5", 1)
    native.write_text("".join(json.dumps(one) + "\n" for one in events))
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", native)
    assert code == 1
    assert "native.log" in out
    shutil.rmtree(tmp_path / "journal")
    other = SealedJournal(tmp_path / "journal")
    other.store(line(1))
    other.close()
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", native)
    assert code == 1
    assert "known from an anchor" in out


def test_what_real_answers_say_shows_a_journal_that_was_cut(tmp_path, review_bodies):
    """Without a single checkpoint: the roots that the API server's own log has are enough."""
    native = tmp_path / "native.log"
    with running.serve(sealed_env(tmp_path, AUDIT_SEAL_SECONDS="3600"), journal=tmp_path / "journal") as server:
        with native.open("w") as file:
            for body in review_bodies[:20]:
                said = server.post(body).json["response"]["auditAnnotations"]
                assert said.keys() == {"recorded", "tree"}
                file.write(json.dumps(native_event({f"audit.example/{key}": value for key, value in said.items()})))
                file.write("\n")
        server.signal(signal.SIGKILL)
        server.process.wait(10)
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", native)
    assert code == 0, out
    (segment,) = (tmp_path / "journal").glob("*/audit-*.ndjson")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    assert run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", native)[0] == 1


def native_event(annotations):
    return {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": str(annotations),
        "stage": "ResponseComplete", "verb": "create", "requestURI": "/api", "user": {"username": "u"},
        "requestReceivedTimestamp": "2026-11-24T11:43:52.395011Z",
        "stageTimestamp": "2026-11-24T11:43:52.395011Z", "annotations": annotations,
    }  # fmt: skip


def test_an_anchor_that_names_no_directory(tmp_path):
    """Only `size root`: it must be the tree of some directory."""
    journal = SealedJournal(tmp_path)
    for number in range(9):
        journal.store(line(number))
    journal.close()
    anchors = Anchors([], {TreeHead(size, root, ""): "native.log" for size, root, _ in journal.heads})
    assert verified(tmp_path, anchors=anchors).result == "proved"
    anchors.heads[TreeHead(5, bytes(32), "")] = "native.log"
    (finding,) = wrong(verified(tmp_path, anchors=anchors))
    assert "knows a tree of 5 entries that no directory here has" in finding.text


def test_the_journal_tells_the_head_that_a_line_is_under(tmp_path):
    """What an answer may carry: asked for while the line's `done` is called."""
    import asyncio  # noqa: PLC0415 - of this test alone

    sealed = SealedJournal(tmp_path, segment_bytes=9999)
    seen = []
    told = asyncio.Event()

    class Told(Entry):
        def done(self, error):
            assert error is None or isinstance(error, DeadlinePassed)
            seen.append(self.journal.tree_head())
            told.set()

    async def main():
        journal = Journal(sealed.writer)
        for number in range(3):
            entry = Told(line(number), time.monotonic() + 5)
            entry.journal = journal
            journal.submit(entry)
            await told.wait()
            told.clear()
        journal.stop()
        journal.join(5)
        assert Journal(StdoutWriter(sealed.observer)).tree_head() == ""

    asyncio.run(main())
    assert [head.split()[0] for head in seen] == ["1", "2", "3"]
    anchors = Anchors([], {})
    for head in seen:
        size, root = head.split()
        anchors.heads[TreeHead(int(size), notes.base64.b64decode(root), "")] = "answers"
    assert verified(tmp_path, anchors=anchors).result == "proved"


# -- sinks ----------------------------------------------------------------------------------------------------------


def test_checkpoints_go_through_a_sink_and_come_back_as_anchors(tmp_path, review_bodies):
    """As records of their own kind, each once; the sink's export shows that the journal was written anew."""
    env = sealed_env(tmp_path)
    with running_backend(Elasticsearch) as backend:
        env |= settings_for("elasticsearch", backend)
        env.pop("AUDIT_JOURNAL_DIR", None)
        with running.serve(env, journal=tmp_path / "journal") as server:
            for body in review_bodies[:5]:
                assert server.post(body).status == 200
            running.wait_for(lambda: any(_is_checkpoint(one) for one in _documents(backend)), 15)
            server.signal()
            assert server.wait() == 0
        found = [one for one in _documents(backend) if _is_checkpoint(one)]
        export = tmp_path / "export.ndjson"
        export.write_text("".join(json.dumps({"_source": one}) + "\n" for one in found))
    assert len({one["auditID"] for one in found}) == len(found) >= 2
    assert all(one["verb"] == "checkpoint" and one["user"] == {} for one in found)
    anchors = Anchors([], {})
    assert read_anchors(str(export), lambda: iter([export.read_bytes()]), anchors) == len(found)
    assert run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", export)[0] == 0
    (directory,) = directories(tmp_path / "journal")
    shutil.rmtree(directory)
    other = SealedJournal(tmp_path / "journal")
    other.store(line(1))
    other.close()
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY, "--anchors", export)
    assert code == 1
    assert f"{os.path.basename(directory)}\n  WRONG: this directory is known from an anchor" in out


def _documents(backend):
    return [json.loads(source) for source in backend.documents.values()]


def _is_checkpoint(document):
    return document.get("verb") == "checkpoint"


def test_a_checkpoint_as_a_record():
    note = checkpoints.sign("example.com/audit/prod/x", EMPTY, [KEY])
    first = reading.read(checkpoint_record(note, now_ns=1_790_000_000_000_000_000))
    again = reading.read(checkpoint_record(note, now_ns=1_790_000_001_000_000_000))
    assert first.id == again.id, "copies are told by their id"
    assert (first.verb, first.user, first.is_event) == ("checkpoint", "", True)
    assert first.object.resource == ""


def test_no_checkpoint_is_passed_over_however_little_is_read_at_a_time(tmp_path):
    """A sink that was down for hours: a batch ends within a file of checkpoints, wherever that is."""
    journal = SealedJournal(tmp_path / "journal")
    for number in range(40):
        journal.store(line(number))
    journal.close()
    (directory,) = directories(tmp_path / "journal")
    files = sorted(pathlib.Path(directory).glob("*.checkpoints"))
    written = [one for file in files for one in checkpoints.split(file.read_bytes())[0]]
    for size in range(1024, 4000, 61):
        channel = Channel(directory, str(tmp_path), "sink", Files(), CheckpointReader)
        found = []
        while not is_through(Files(), directory, channel.position.segment, channel.position.offset):
            channel.fill(size)
            assert channel.lines, (size, len(found))
            while channel.lines:
                found.append(channel.take())
            channel.position = found[-1].end()
        assert [reading.read(one.data)._notes.checkpoint.encode() for one in found] == written, size


def test_a_checkpoint_that_is_damaged_stops_nobody(tmp_path):
    """No sink, and no witness's thread: it is `verify` that says so."""
    journal = SealedJournal(tmp_path / "journal")
    journal.store(line(1))
    journal.close()
    (directory,) = directories(tmp_path / "journal")
    (name,) = (name for name in os.listdir(directory) if name.endswith(".checkpoints"))
    content = pathlib.Path(directory, name).read_bytes()
    pathlib.Path(directory, name).write_bytes(content.replace(b"\n1\n", b"\n\xff\n"))
    channel = Channel(directory, str(tmp_path), "sink", Files(), CheckpointReader)
    channel.fill(1 << 20)
    assert len(channel.lines) == content.count(b"\n\n")
    assert reading.read(channel.lines[0].data).verb == "checkpoint"
    witness = SignerKey("w.example", bytes(range(7, 39)), KeyType.COSIGNATURE)
    assert WitnessWorker("http://127.0.0.1:9", str(witness.verifier)).is_through(directory)


# -- a witness ------------------------------------------------------------------------------------------------------


class Witness:
    """A tlog-witness: it cosigns what extends what it cosigned before. ``fail`` answers 500 so many times."""

    def __init__(self, fail=0):
        self.key = SignerKey("w.example", bytes(range(7, 39)), KeyType.COSIGNATURE)
        self.known = {}
        self.fail = fail
        self.requests = 0
        witness = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                status, kind, body = witness.answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments): ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/w"

    def answer(self, data):
        self.requests += 1
        if self.fail:
            self.fail -= 1
            return 500, "text/plain", b"later"
        request = parse_add_checkpoint(data)
        head, note = checkpoints.parse_signed(request.checkpoint)
        notes.check(note, [KEY.verifier]).require()
        size, root = self.known.get(head.origin, (0, EMPTY.root()))
        if request.old_size != size:
            return 409, "text/x.tlog.size", b"%d\n" % size
        check_consistency(request.path, old_size=size, old_root=root, size=head.size, root=head.root)
        self.known[head.origin] = (head.size, head.root)
        signed = self.key.cosignature(note.text.encode(), int(time.time()))
        line_ = Signature(self.key.name, self.key.verifier.key_id, signed).line()
        return 200, "text/plain", line_.encode()

    @contextlib.contextmanager
    def running(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


def test_a_witness_cosigns_in_the_end(tmp_path):
    """Asked beside reviews, again after failures, with proofs; `verify` says up to where it has cosigned."""
    with Witness(fail=1).running() as witness:
        journal = SealedJournal(tmp_path)
        journal.store(line(1), line(2))
        worker = WitnessWorker(witness.url, str(witness.key.verifier), poll_seconds=0.01)
        worker._poster.open()
        (directory,) = directories(tmp_path)
        worker._look(directory)
        assert worker.status() == {"failures": 1, "last_cosignature": 0.0}
        worker._look(directory)
        assert witness.requests == 1, "it waits before it asks again"
        sizes = []
        for number in range(20):
            worker._waits.clear()
            worker._look(directory)
            sizes.append(max((size for size, _ in witness.known.values()), default=0))
            journal.store(line(number), line(number + 100))
            journal.writer.tick()  # a checkpoint behind that of a segment's end
        assert sizes == list(range(2, 42, 2))
        assert not worker.is_through(directory)
        worker._done.clear()  # as a process that starts anew
        worker._look(directory)
        assert worker.is_through(directory)
        journal.close()
    found = verified(tmp_path)
    assert found.result == "proved"
    from function.evidence.log import Keys  # noqa: PLC0415 - of this step alone
    from function.evidence.verification import verify  # noqa: PLC0415 - as above

    known = Keys([KEY.verifier, witness.key.verifier])
    assert verify([directory], known, Anchors([], {})).directories[0].witnessed == 42
    assert worker.status()["failures"] == 1


def test_a_witness_that_knows_more_is_asked_from_there(tmp_path):
    """Its answer was lost: 409 with the size, and a proof from there."""
    with Witness().running() as witness:
        journal = SealedJournal(tmp_path)
        journal.store(line(1))
        (directory,) = directories(tmp_path)
        first = WitnessWorker(witness.url, str(witness.key.verifier))
        first._poster.open()
        first._look(directory)
        for name in os.listdir(directory):
            if name.startswith("witness-"):
                os.remove(f"{directory}/{name}")
        journal.store(line(2), line(3))
        second = WitnessWorker(witness.url, str(witness.key.verifier))
        second._poster.open()
        second._look(directory)
        assert second.is_through(directory)
        assert second.status()["failures"] == 0
        journal.close()


def test_witnesses_under_serve(tmp_path):
    """The forwarder's process asks them, also where nothing is forwarded; a review never waits for it."""
    with Witness().running() as witness:
        env = sealed_env(tmp_path, AUDIT_SEAL_WITNESSES=f"{witness.url} {witness.key.verifier}")
        with running.serve(env, journal=tmp_path / "journal") as server:
            assert server.post(review("witnessed")).status == 200
            name = 'kube_audit_function_witness_last_cosignature_timestamp_seconds{witness="w.example"}'
            running.wait_for(lambda: server.metrics().get(name, 0) > 0, 20)
    code, out, _ = run("verify", tmp_path / "journal", "--key", VKEY, "--key", str(witness.key.verifier))
    assert code == 0
    assert "cosigned by a witness" in out


# -- statements -----------------------------------------------------------------------------------------------------


def test_a_statement_cannot_pass_for_a_checkpoint():
    signed = statements.sign(statements.Statement(statements.SEGMENT, "1", {"segment": "1"}), [KEY])
    assert statements.parse(signed)[0].number("segment") == 1
    with pytest.raises(notes.Malformed):
        checkpoints.parse_signed(signed)
    with pytest.raises(notes.Malformed):
        statements.parse(checkpoints.sign("example.com", EMPTY, [KEY]))
    with pytest.raises(notes.Malformed, match="twice"):
        statements.parse(Note(f"{statements.Statement('segment', 'o', {'a': '1'}).text()}a: 2\n",
                              (Signature("x", bytes(4), bytes(64)),)).encode())  # fmt: skip
