"""What tamper evidence costs: a record's leaf, a signature, and making a tree again from the lines, on one core.

    python bench/transparency.py [--bytes 1000000000] [--rounds 5] [--scratch DIR]

Each figure is the best of the rounds: what others do to the machine only adds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, HERE]

import reviews  # noqa: E402 - found by the path above

from function.evidence.hashing import Segment, Task, check  # noqa: E402
from function.record.review_format import ReviewFormat  # noqa: E402
from function.review import decode  # noqa: E402
from function.transparency import checkpoint as checkpoints  # noqa: E402
from function.transparency import proof as proofs  # noqa: E402
from function.transparency.keys import SignerKey  # noqa: E402
from function.transparency.paths import check_inclusion, inclusion_proof  # noqa: E402
from function.transparency.tree import EMPTY, Tree, leaf_hash  # noqa: E402

START_NS = 1_790_000_000_000_000_000
ORIGIN = "bench.example/audit"
GROUP = 8
BUFFER_BYTES = 1 << 20
LARGE = 4_000_000


def main() -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    records = recorded()
    mean = sum(map(len, records)) / len(records)
    print(f"{len(records)} recorded reviews as lines of {mean:.0f} bytes in the mean\n")
    for_each_record(records, options.rounds)
    for_each_signature(options.rounds)
    importing(options.rounds)
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        whole_journal(os.path.join(directory, "lines"), records, options.bytes, options.rounds)
    large_tree()
    return 0


def recorded() -> list[bytes]:
    """Return recorded reviews as the journal writes them."""
    target = ReviewFormat()
    return [
        target.render(decode(body), level="Request", received_ns=START_NS, now_ns=0, cluster="bench", changes=None)
        for body in reviews.bodies(reviews.MIX)
    ]


def for_each_record(records: list[bytes], rounds: int) -> None:
    """What the writer's thread pays: the leaf alone, the leaf and the edge, and in groups that could be undone."""
    many = records * max(1, 20_000 // len(records))

    def hashing() -> None:
        for record in many:
            leaf_hash(record)

    def appending() -> None:
        tree = Tree()
        for record in many:
            tree.append(leaf_hash(record))

    def in_one_call() -> None:
        Tree().append_records(many)

    def in_groups() -> None:
        tree = Tree()
        for at in range(0, len(many), GROUP):
            tree.edge()
            tree.append_records(many[at : at + GROUP])

    def undone() -> None:
        tree = Tree()
        tree.append_records(many[: GROUP * 500])
        mark = tree.edge()
        for _ in range(len(many)):
            tree.rollback(mark)

    print("for each record")
    for name, what in (
        ("leaf_hash", hashing),
        ("leaf_hash and Tree.append", appending),
        ("Tree.append_records, one call", in_one_call),
        (f"Tree.edge and append_records, groups of {GROUP}", in_groups),
        ("Tree.rollback (each)", undone),
    ):
        row(name, best(what, rounds) / len(many))


def for_each_signature(rounds: int) -> None:
    """Signing, opening and proving one checkpoint."""
    signer = SignerKey(ORIGIN, bytes(range(32)))
    tree = Tree()
    tree.append_records(b"%d" % number for number in range(1_000_003))
    edge = tree.edge()
    signed = checkpoints.sign(ORIGIN, edge, [signer])
    proof = proofs.of_last(edge, leaf_hash(b"next"), signed).encode()
    keys = [signer.verifier]
    print("for each checkpoint of a tree of a million")
    for name, what in (
        ("Ed25519 signature alone", lambda: signer.signature(b"text\n")),
        ("checkpoint.sign: root, text and signature", lambda: checkpoints.sign(ORIGIN, edge, [signer])),
        ("checkpoint.verify", lambda: checkpoints.verify(signed, ORIGIN, keys)),
        ("proof.parse", lambda: proofs.parse(proof)),
    ):
        row(name, best(lambda what=what: [what() for _ in range(2000)], rounds) / 2000)  # type: ignore[misc]


def importing(rounds: int) -> None:
    """What the first signature loads, in a process of its own."""
    code = (
        "import time; from function.transparency.keys import SignerKey\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * 4\n"
        "before, start = rss(), time.perf_counter()\n"
        "SignerKey('a', bytes(32)).signature(b'text')\n"
        "print(time.perf_counter() - start, rss() - before)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(rounds)
    ]
    seconds, kibibytes = min(float(run[0]) for run in runs), min(int(run[1]) for run in runs)
    print(
        f"  {'importing cryptography with the first signature':52} {seconds * 1e3:8.1f} ms, {kibibytes / 1024:.1f} MiB"
    )


def whole_journal(path: str, records: list[bytes], size_min: int, rounds: int) -> None:
    """Reading lines from a file (in the page cache) and comparing them with checkpoints."""
    size = count = 0
    tree = Tree()
    leaves = [record.rstrip(b"\n") for record in records]
    roots: list[tuple[int, tuple[bytes, ...]]] = []
    with open(path, "wb") as file:
        while size < size_min:
            file.writelines(records)
            tree.append_records(leaves)
            roots.append((tree.size, (tree.root(),)))
            size += sum(map(len, records))
            count += len(records)
    print(f"{size / 1e6:.0f} MB, {count} lines, {len(roots)} checkpoints")

    def comparing() -> None:
        passed = check(Task("", EMPTY, (Segment(1, path),), tuple(roots)))
        assert len(passed.matched) == len(roots)  # noqa: S101 - a bench that measures nothing is none

    def reading() -> None:
        with open(path, "rb", buffering=BUFFER_BYTES) as file:
            for _ in file:
                pass

    def proving() -> None:
        with open(path, "rb", buffering=BUFFER_BYTES) as file:
            path_of_last = inclusion_proof((leaf_hash(line[:-1]) for line in file), index=count // 2, size=count)
        leaf = leaf_hash(leaves[count // 2 % len(records)])
        check_inclusion(path_of_last, index=count // 2, size=count, leaf=leaf, root=tree.root())

    for name, what in (
        ("reading lines", reading),
        ("recomputing and comparing", comparing),
        ("inclusion_proof of one line", proving),
    ):
        seconds = best(what, rounds)
        print(f"  {name:52} {size / seconds / 1e6:8.0f} MB/s, {seconds / count * 1e6:.2f} µs a line")


def large_tree() -> None:
    """A proof in a tree as large as 10 GB of journal, over leaves that stream by."""

    def leaves() -> Iterator[bytes]:
        leaf = leaf_hash(b"")
        yield from (leaf for _ in range(LARGE))

    started = time.perf_counter()
    path = inclusion_proof(leaves(), index=LARGE // 3, size=LARGE)
    seconds = time.perf_counter() - started
    print(f"{LARGE} leaves that are hashed already")
    print(f"  {'inclusion_proof':52} {seconds:8.2f} s, {len(path)} hashes kept in the end")


def best(what: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest run."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def row(name: str, seconds: float) -> None:
    """Print a figure in microseconds."""
    print(f"  {name:52} {seconds * 1e6:8.2f} µs")


if __name__ == "__main__":
    sys.exit(main())
