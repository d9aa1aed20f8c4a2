"""Tamper evidence, judged by other people's code.

Go's own note and tlog (golang.org/x/mod/sumdb), torchwood, and the proofs and the witness of transparency-dev.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import running as servers
from processes import listening
from report import Report

from function.transparency import checkpoint as checkpoints
from function.transparency import note as notes
from function.transparency import proof as proofs
from function.transparency import witness
from function.transparency.keys import BadKey, KeyType, SignerKey, VerifierKey, parse_verifier_key
from function.transparency.note import Malformed, NotSigned
from function.transparency.paths import NotProven, consistency_proof, inclusion_proof
from function.transparency.proof import Proof
from function.transparency.tree import Edge, Tree, leaf_hash
from function.transparency.witness import AddCheckpoint, Cosigned, NotCosigned, Outcome, SizeConflict

SECTION = "Tamper evidence, judged by other people's code"
HEADER = "What; judged by; how many"
ORIGIN = "example.com/audit"
WITNESS = "witness.example/w1"
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 255, 256, 1000, 1025)


class Log:
    """A log as our pure room makes it, in memory: ``records`` are the lines of a journal."""

    def __init__(self, records: Sequence[bytes], seed: bytes) -> None:
        self.records = list(records)
        self.leaves = list(map(leaf_hash, records))
        self.signer = SignerKey(ORIGIN, seed)

    @property
    def keys(self) -> list[VerifierKey]:
        return [self.signer.verifier]

    def edge(self, size: int) -> Edge:
        tree = Tree()
        tree.append_records(self.records[:size])
        return tree.edge()

    def checkpoint(self, size: int) -> bytes:
        return checkpoints.sign(ORIGIN, self.edge(size), [self.signer])

    def request(self, old_size: int, size: int) -> AddCheckpoint:
        path = consistency_proof(self.leaves, old_size=old_size, size=size)
        return AddCheckpoint(old_size, tuple(path), self.checkpoint(size))

    def proof(self, index: int, checkpoint: bytes) -> Proof:
        size = checkpoints.parse_signed(checkpoint)[0].size
        return Proof(index, tuple(inclusion_proof(self.leaves, index=index, size=size)), checkpoint)


@pytest.fixture(scope="module")
def judges() -> Path:
    if "E2E_JUDGES" not in os.environ:
        pytest.exit("start these tests with tests/e2e/run, which builds the judges", returncode=2)
    return Path(os.environ["E2E_JUDGES"]) / "judges"


@pytest.fixture(scope="module")
def log(review_bodies: list[bytes]) -> Log:
    """A log of recorded reviews, with a key of its own."""
    return Log([b"%d %b" % (number, review_bodies[number % 300]) for number in range(1100)], os.urandom(32))


@pytest.fixture
def files(log: Log, tmp_path: Path) -> list[str | Path]:
    """The log's entries in a file, and the flags that name it and the log."""
    leaves = tmp_path / "leaves"
    leaves.write_bytes(b"".join(log.records))
    return ["-origin", ORIGIN, "-leaves", leaves, "-vkey", str(log.signer.verifier)]


def judged(judges: Path, *arguments: str | Path, stdin: str = "") -> str:
    """Return what a judge printed. Raises `AssertionError` with its reason when it found something wrong."""
    command = [str(part) for part in (judges, *arguments)]
    finished = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def written(directory: Path, contents: dict[str, bytes]) -> Path:
    """Write files into a new directory; return it."""
    directory.mkdir()
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return directory


def test_go_makes_the_same_bytes(judges: Path, log: Log, files: list[str | Path], report: Report) -> None:
    """Go reads our signer key and our entries; checkpoints, requests and proofs of all sizes come out byte for byte."""
    made: dict[str, dict[str, str]] = json.loads(
        judged(judges, "make", *files, "-skey", log.signer.text(), *map(str, SIZES))
    )
    for size, text in made["checkpoints"].items():
        assert log.checkpoint(int(size)) == text.encode()
    for sizes, text in made["requests"].items():
        assert log.request(*map(int, sizes.split())).encode() == text.encode()
        assert witness.parse_add_checkpoint(text.encode()) == log.request(*map(int, sizes.split()))
    for place, text in made["proofs"].items():
        index, size = map(int, place.split())
        assert log.proof(index, log.checkpoint(size)).encode() == text.encode()
        proofs.verify(proofs.parse(text.encode()), log.leaves[index], ORIGIN, log.keys)
    assert len(made["checkpoints"]) == len(SIZES)
    assert len(made["requests"]) == len(SIZES) * (len(SIZES) + 1) // 2
    for what, rows in made.items():
        report.rows(SECTION, HEADER, [f"{what}, the same byte for byte", "golang.org/x/mod, torchwood", len(rows)])


def test_go_verifies_what_we_write(judges: Path, log: Log, files: list[str | Path], tmp_path: Path) -> None:
    """Roots over the entries, consistency from every size to the next, entries, and the edge that retention keeps."""
    heads = tmp_path / "checkpoints"
    heads.write_bytes(b"".join(map(log.checkpoint, SIZES)))
    neighbours = list(zip((0, *SIZES), SIZES, strict=False))
    requests = {f"{old}-{size}": log.request(old, size).encode() for old, size in neighbours}
    places = [(index, size) for size in SIZES for index in {0, size // 3, size - 1} if 0 <= index < size]
    proved = {f"{index}-{size}": log.proof(index, log.checkpoint(size)).encode() for index, size in places}
    edges = {
        f"edge-{size}": proofs.of_last(log.edge(size - 1), log.leaves[size - 1], log.checkpoint(size))
        for size in SIZES
        if size
    }
    for name, proof in edges.items():
        assert proofs.edge(proof, ORIGIN, log.keys) == log.edge(int(name.removeprefix("edge-")))
    kept = {name: dataclasses.replace(proof, extra=None).encode() for name, proof in edges.items()}
    directories = [
        "-checkpoints",
        heads,
        "-bodies",
        written(tmp_path / "requests", requests),
        "-proofs",
        written(tmp_path / "proofs", proved | kept),
    ]
    said = judged(judges, "check", *files, *directories)
    assert said == f"checkpoints {len(SIZES)} requests {len(requests)} proofs {len(proved) + len(kept)}\n"


def test_the_judge_sees_what_is_wrong(judges: Path, log: Log, files: list[str | Path], tmp_path: Path) -> None:
    """A changed entry, another root, a signature, a path: each ends in a reason. Extra data does not matter to it."""
    heads = tmp_path / "checkpoints"
    heads.write_bytes(log.checkpoint(100))
    good = log.proof(17, log.checkpoint(100))
    written(tmp_path / "good", {"17": dataclasses.replace(good, extra=log.leaves[17]).encode()})
    everything = [*files, "-checkpoints", heads, "-proofs", tmp_path / "good"]
    assert judged(judges, "check", *everything) == "checkpoints 1 requests 0 proofs 1\n"

    other = Log([b"x\n", *log.records[1:]], log.signer.seed)
    request = log.request(64, 100)
    wrong: dict[str, tuple[str, bytes]] = {
        "has the root": ("checkpoints", other.checkpoint(100)),
        "no verifiable signatures": ("checkpoints", Log(log.records, bytes(32)).checkpoint(100)),
        "invalid signature": ("checkpoints", log.checkpoint(100).replace(b"\n100\n", b"\n101\n")),
        "inclusion proof verification failed": ("proofs", dataclasses.replace(good, index=18).encode()),
        "invalid transparency proof": (
            "bodies",
            dataclasses.replace(request, path=(bytes(32), *request.path[1:])).encode(),
        ),
    }
    for number, (reason, (kind, content)) in enumerate(wrong.items()):
        place = written(tmp_path / f"wrong-{number}", {"file": content})
        where = place / "file" if kind == "checkpoints" else place
        with pytest.raises(AssertionError, match=reason):
            judged(judges, "check", *files, f"-{kind}", where)


# -- everything that could be written ------------------------------------------------------------------------------


def test_go_and_we_refuse_the_same(judges: Path, report: Report) -> None:
    """Mutated notes, checkpoints, proofs and keys: what one accepts the other does.

    But for base64 that is spelled as nobody writes it, which Go takes and we do not. What is malformed to Go is to us;
    the reverse cannot be said, since Go verifies while it still reads.
    """
    log = Log([b"leaf", *(b"%d" % number for number in range(20))], bytes(range(32)))
    seeds = {
        "note": notes.sign("a text\n\nwith lines\n", [log.signer, SignerKey("x.example", bytes(32))]).encode(),
        "checkpoint": log.checkpoint(21),
        "proof": dataclasses.replace(log.proof(0, log.checkpoint(21)), extra=b"extra data").encode(),
        "vkey": str(log.signer.verifier).encode(),
    }
    chance = random.Random(20_260_722)
    cases = [(kind, mutated(seed, chance)) for _ in range(5000) for kind, seed in seeds.items()]
    stdin = "".join(f"{kind} {base64.b64encode(data).decode()}\n" for kind, data in cases)
    theirs = judged(judges, "verdicts", "-origin", ORIGIN, "-vkey", str(log.signer.verifier), stdin=stdin).split()
    ours = [verdict(kind, data, log) for kind, data in cases]
    compared = list(zip(cases, ours, theirs, strict=True))
    assert [one for one in compared if one[1] == "accepted" != one[2]] == []
    assert [one for one in compared if one[2] == "malformed" != one[1]] == []
    only_theirs = [case for case, our, their in compared if their == "accepted" != our]
    assert [case for case in only_theirs if not is_spelled_otherwise(*case, log)] == []
    both = ours.count("accepted")
    assert both > 5000
    assert len(cases) - both - len(only_theirs) > 5000
    by = "golang.org/x/mod, torchwood"
    report.rows(SECTION, HEADER, ["mutated inputs that both accept", by, both])
    report.rows(SECTION, HEADER, ["mutated inputs that both refuse", by, len(cases) - both - len(only_theirs)])
    report.rows(SECTION, HEADER, ["base64 in another spelling, which Go takes", by, len(only_theirs)])


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    alphabet = b"\n\n\n  +=A\xe2\x80\x94\x00\x7f0919ghi\xc2\xa0\r\t"
    for _ in range(chance.randint(0, 2)):
        at = chance.randrange(len(data) + 1)
        length = chance.randint(0, 2)
        data[at : at + length] = bytes(chance.choices(alphabet, k=chance.randint(0, 2)))
    return bytes(data)


def verdict(kind: str, data: bytes, log: Log) -> str:
    """Return what our room makes of ``data``, in the judge's words."""
    try:
        if kind == "note":
            notes.check(notes.parse(data), log.keys).require()
        elif kind == "checkpoint":
            checkpoints.verify(data, ORIGIN, log.keys)
        elif kind == "proof":
            proofs.verify(proofs.parse(data), leaf_hash(b"leaf"), ORIGIN, log.keys)
        else:
            parse_verifier_key(data.decode())
    except (Malformed, BadKey, UnicodeDecodeError):
        return "malformed"
    except (NotSigned, NotProven):
        return "unverified"
    return "accepted"


def is_spelled_otherwise(kind: str, data: bytes, log: Log) -> bool:
    """Return whether all that we refuse is base64 with line breaks in it, or with bits left over at its end."""
    breaks = b"\r\n" if kind == "vkey" else b"\r"
    return verdict(kind, data.translate(None, breaks), log) == "accepted" or any(
        map(_has_bits_left, _WORDS.findall(data))
    )


_WORDS = re.compile(rb"(?<=[ \n+])[A-Za-z0-9+/]+={0,2}")


def _has_bits_left(word: bytes) -> bool:
    return len(word) % 4 == 0 and base64.b64encode(base64.b64decode(word)) != word


# -- a witness -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Running:
    """A witness that listens."""

    url: str
    key: VerifierKey

    def ask(self, request: AddCheckpoint) -> Outcome:
        """POST our bytes to the witness; return what our room makes of its answer."""
        http = urllib.request.Request(f"{self.url}/add-checkpoint", request.encode(), method="POST")
        try:
            with urllib.request.urlopen(http, timeout=60) as response:
                status, headers, body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, headers, body = error.code, error.headers, error.read()
        return witness.outcome(request, status, headers.get("Content-Type", ""), body, [self.key])


@pytest.fixture
def running(judges: Path, log: Log, tmp_path: Path) -> Iterator[Running]:
    """The witness of transparency-dev, which knows this log."""
    output = tmp_path / "witness.log"
    flags = ["-origin", ORIGIN, "-vkey", str(log.signer.verifier), "-name", WITNESS]
    with listening("witness", [judges, "witness", *flags, "0"], output) as (_, port):
        said = re.search(r"^cosigner (\S+)$", output.read_text(), re.MULTILINE)
        assert said
        key = parse_verifier_key(said[1])
        assert (key.name, key.type) == (WITNESS, KeyType.COSIGNATURE)
        yield Running(f"http://127.0.0.1:{port}", key)


def test_a_witness_cosigns_a_growing_log(
    running: Running, judges: Path, log: Log, files: list[str | Path], tmp_path: Path, report: Report
) -> None:
    """Through bytes that our room made, from size to size; the result holds everything that torchwood asks for."""
    cosigned: list[bytes] = []
    for old, size in zip((0, *SIZES), SIZES, strict=False):
        answer = running.ask(log.request(old, size))
        assert isinstance(answer, Cosigned), answer
        opened = checkpoints.verify(answer.checkpoint, ORIGIN, log.keys, [running.key])
        assert [one.name for one in opened.cosignatures] == [WITNESS]
        cosigned.append(answer.checkpoint)
    again = running.ask(dataclasses.replace(log.request(SIZES[-1], SIZES[-1]), checkpoint=cosigned[-1]))
    assert isinstance(again, Cosigned)
    assert again.checkpoint.count("—".encode()) == 2  # its new cosignature stands in the old one's place

    heads = tmp_path / "cosigned"
    heads.write_bytes(b"".join(cosigned))
    proved = {str(index): log.proof(index, cosigned[-1]).encode() for index in range(0, SIZES[-1], 41)}
    directories = ["-checkpoints", heads, "-proofs", written(tmp_path / "proofs", proved)]
    said = judged(judges, "check", *files, "-cosigner", str(running.key), *directories)
    assert said == f"checkpoints {len(cosigned)} requests 0 proofs {len(proved)}\n"
    report.rows(SECTION, HEADER, ["cosigned checkpoints", "transparency-dev/witness", len(cosigned)])
    report.rows(SECTION, HEADER, ["proofs with cosignature", "torchwood, transparency-dev/merkle", len(proved)])


def test_a_witness_that_knows_better(running: Running, log: Log) -> None:
    """It says where it is when we are wrong about it; and it does not cosign another history, nor another log."""
    assert isinstance(running.ask(log.request(0, 100)), Cosigned)
    assert running.ask(log.request(64, 256)) == SizeConflict(100)
    assert isinstance(running.ask(log.request(100, 256)), Cosigned)

    behind = running.ask(log.request(100, 255))
    assert isinstance(behind, NotCosigned)
    assert (behind.alarming, "has cosigned 256 entries" in behind.reason) == (True, True)

    forked = Log([*log.records[:100], b"another\n", *log.records[100:]], log.signer.seed)
    for request in (forked.request(256, 1000), forked.request(256, 256)):
        refused = running.ask(request)
        assert isinstance(refused, NotCosigned)
        assert refused.alarming
        assert "another history" in refused.reason

    other_log = dataclasses.replace(log.request(256, 1000), checkpoint=other_origin(log))
    unknown = running.ask(other_log)
    assert isinstance(unknown, NotCosigned)
    assert "does not know the log" in unknown.reason
    assert isinstance(running.ask(log.request(256, 1000)), Cosigned)  # the refused ones changed nothing


def other_origin(log: Log) -> bytes:
    return checkpoints.sign("example.com/other", log.edge(1000), [log.signer])


def test_a_stranger_cannot_sign_for_the_log(running: Running, log: Log) -> None:
    """A checkpoint under another key is refused by the witness, whatever its status says."""
    stranger = Log(log.records, os.urandom(32))
    answer: Any = running.ask(stranger.request(0, 10))
    assert isinstance(answer, NotCosigned)
    assert not answer.alarming


# -- a journal of the real function ---------------------------------------------------------------------------------


def command(*arguments: str | Path) -> str:
    """Run one of the function's commands; return what it printed."""
    code, out, err = servers.run([sys.executable, "-m", "function", *map(str, arguments)])
    assert code == 0, out + err
    return str(out)


def test_a_sealed_journal_of_the_real_function(
    judges: Path, review_bodies: list[bytes], tmp_path: Path, report: Report
) -> None:
    """Go opens every checkpoint and proof that the function wrote, over the segments that it wrote; and cosigns.

    Two processes, the first one killed; every checkpoint extends the one before, as two libraries say.
    """
    vkey = command("keys", "new", "example.com/audit", "--out", tmp_path / "key").strip()
    flags = ["-origin", "example.com/audit", "-vkey", vkey, "-name", WITNESS]
    journal = tmp_path / "journal"
    with listening("witness", [judges, "witness", *flags, "0"], tmp_path / "witness.log") as (_, port):
        said = re.search(r"^cosigner (\S+)$", (tmp_path / "witness.log").read_text(), re.MULTILINE)
        assert said
        cosigner = said[1]
        env = {
            "AUDIT_SEAL_KEY_FILE": str(tmp_path / "key"),
            "AUDIT_SEAL_SECONDS": "1",
            "AUDIT_SEAL_WITNESSES": f"http://127.0.0.1:{port} {cosigner}",
            "AUDIT_SEGMENT_BYTES_MAX": "128KiB",
            "AUDIT_CLUSTER_NAME": "prod",
        }
        for number, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
            with servers.serve(env, journal=journal) as server:
                for body in review_bodies[number * 150 : number * 150 + 150]:
                    assert server.post(body).status == 200
                    time.sleep(0.01)
                seen = f'kube_audit_function_witness_last_cosignature_timestamp_seconds{{witness="{WITNESS}"}}'
                servers.wait_for(lambda server=server, seen=seen: server.metrics().get(seen, 0) > 0, 30)
                server.signal(end)
                server.wait()
    checked = {"checkpoints": 0, "requests": 0, "proofs": 0, "cosigned": 0}
    for directory in sorted(one for one in journal.iterdir() if list(one.glob("audit-*.checkpoints"))):
        judge_directory(judges, directory, vkey, cosigner, tmp_path / directory.name[-8:], checked)
    assert checked["checkpoints"] > 6
    assert checked["cosigned"] == 2
    assert checked["proofs"] > 10
    said_ = command("verify", journal, "--key", vkey, "--key", cosigner)
    assert "cosigned by a witness" in said_
    by = "golang.org/x/mod, torchwood, transparency-dev"
    for what, count in checked.items():
        report.rows(SECTION, HEADER, [f"{what} of the real function's journal", by, count])


def judge_directory(
    judges: Path, directory: Path, vkey: str, cosigner: str, scratch: Path, checked: dict[str, int]
) -> None:
    """Let Go check all that lies in a process directory."""
    scratch.mkdir()
    leaves = scratch / "leaves"
    content = b"".join(one.read_bytes() for one in sorted(directory.glob("audit-*.ndjson")))
    leaves.write_bytes(content)
    records = content.splitlines()
    signed = b"".join(one.read_bytes() for one in sorted(directory.glob("audit-*.checkpoints")))
    heads = checkpoints.split(signed)[0]
    (scratch / "heads").write_bytes(b"".join(heads))
    origin = heads[0].partition(b"\n")[0].decode()
    assert origin == f"example.com/audit/prod/{directory.name}"
    hashes = list(map(leaf_hash, records))
    bodies = {}
    for number, (older, newer) in enumerate(itertools.pairwise(heads)):
        old, size = (checkpoints.parse_signed(one)[0].size for one in (older, newer))
        path = consistency_proof(hashes, old_size=old, size=size)
        bodies[str(number)] = AddCheckpoint(old, tuple(path), newer).encode()
    proved = {one.name: one.read_bytes() for one in directory.glob("*.tlog-proof")}
    largest = checkpoints.parse_signed(heads[-1])[0].size
    for at in range(0, largest, 1 + largest // 7):
        uid = json.loads(records[at])["request"]["uid"]
        command("prove", directory, uid, "--out", scratch)
        proved[f"{at}.tlog-proof"] = (scratch / f"{uid}.tlog-proof").read_bytes()
    files: list[str | Path] = ["-bare", "-origin", origin, "-leaves", leaves, "-vkey", vkey]
    files += ["-checkpoints", scratch / "heads", "-bodies", written(scratch / "bodies", bodies)]
    said = judged(judges, "check", *files, "-proofs", written(scratch / "proofs", proved))
    assert said == f"checkpoints {len(heads)} requests {len(bodies)} proofs {len(proved)}\n"
    (cosigned,) = directory.glob("witness-*.checkpoint")
    by_witness = [*files[:7], "-cosigner", cosigner, "-checkpoints", cosigned]
    assert judged(judges, "check", *by_witness).startswith("checkpoints 1 ")
    for what, count in (
        ("checkpoints", len(heads)),
        ("requests", len(bodies)),
        ("proofs", len(proved)),
        ("cosigned", 1),
    ):
        checked[what] += count
