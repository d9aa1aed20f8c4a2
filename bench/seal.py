"""What sealing costs a review, and how fast `verify` is: beside each other in one run, and as whole processes.

    python bench/seal.py [--rounds 5] [--seconds 4] [--bytes 1000000000] [--only reviews,verify] [--scratch DIR]

Exit code 1: CPU per review is more than 1.10 times what it is without (median of the rounds' ratios), or verifying one
journal on one core is slower than 200 MB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, HERE]

from transparency import recorded  # noqa: E402 - found by the path above

from function.journal import Limits, Writer  # noqa: E402 - as above
from function.journal.sealing import Sealer  # noqa: E402 - as above
from function.transparency.keys import SignerKey  # noqa: E402 - as above

KEY = SignerKey("bench.example/audit", bytes(range(32)))
RATIO_MAX = 1.10
VERIFY_MB_MIN = 200.0
GROUP = 64


class Quiet:
    """An observer that nobody asks."""

    def __getattr__(self, name: str) -> object:
        """Return what takes everything."""
        return lambda *_, **__: None


def main() -> int:
    """Measure; print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--only", default="reviews,verify")
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        held = []
        if "reviews" in options.only:
            held.append(reviews(scratch, options))
        if "verify" in options.only:
            held.append(verifying(scratch, options.bytes, options.rounds))
    return 0 if all(held) else 1


def reviews(scratch: str, options: argparse.Namespace) -> bool:
    """Run bench/main.py with and without a key, in turn; return whether the ratio holds."""
    key, results = os.path.join(scratch, "key"), os.path.join(scratch, "results.json")
    with open(key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(KEY.text())
    sealed = f"sealed:AUDIT_SEAL_KEY_FILE={key}"
    command = [sys.executable, os.path.join(HERE, "main.py"), "--only", "serve", "--sizes", "mix", "--variant", sealed]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds), "--json", results]
    subprocess.run([*command, "--scratch", options.scratch], check=True)
    with open(results) as opened:
        rounds = json.load(opened)["rounds"]
    held = True
    for fsync in ("always", "everysec"):
        plain, with_key = (
            [one for one in rounds if one["fsync"] == fsync and one["variant"] == name] for name in ("", "sealed")
        )
        ratio = median(b["cpu_us"] / a["cpu_us"] for a, b in zip(plain, with_key, strict=True))
        p99 = median(b["p99_ms"] / a["p99_ms"] for a, b in zip(plain, with_key, strict=True))
        held = held and ratio <= RATIO_MAX
        print(f"{fsync}: CPU per review {ratio:.3f} x without a key, p99 at saturation {p99:.2f} x")
    return held


def verifying(scratch: str, size: int, rounds: int) -> bool:
    """Make a sealed journal of recorded reviews, and time whole processes that verify it on one core."""
    journal = os.path.join(scratch, "journal")
    written = make(journal, size)
    command = [sys.executable, "-m", "function", "verify", journal, "--key", str(KEY.verifier), "--jobs", "1"]
    seconds, cpu_seconds = [], []
    for _ in range(rounds):
        before, started = cpu(), time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(cpu() - before)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    speed = written / min(cpu_seconds) / 1e6
    print(
        f"verify: {written / 1e6:.0f} MB in {min(seconds):.2f} s, {min(cpu_seconds):.2f} s of CPU: {speed:.0f} MB/s a "
        f"core; peak {peak:.0f} MiB"
    )
    return speed >= VERIFY_MB_MIN


def cpu() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make(journal: str, size: int) -> int:
    """Write at least ``size`` bytes of recorded reviews; return how many."""
    quiet = Quiet()
    sealer = Sealer(lambda: (KEY,), cluster="", seconds=1.0, observer=quiet)  # type: ignore[arg-type]
    limits = Limits(100 << 20, 0, 0, 0)
    writer = Writer(journal, host="bench", limits=limits, every_second=True, observer=quiet, sealer=sealer)  # type: ignore[arg-type]
    lines = recorded()
    written = 0
    while written < size:
        for at in range(0, len(lines), GROUP):
            writer.store(lines[at : at + GROUP])
        writer.tick()
        written += sum(map(len, lines))
    writer.close()
    return written


if __name__ == "__main__":
    sys.exit(main())
