"""Journals from a seed: untouched ones, whatever befell their writers, and what an adversary makes of one."""

from __future__ import annotations

import calendar
import contextlib
import errno
import os
import random
import shutil
import time
from dataclasses import dataclass, field

from faults import ModelFiles
from sealed import KEY, NAME, NEW_KEY, OTHER_KEY, SealedJournal, age, directories, line, sweep

from function.evidence.anchors import Anchors, TreeHead
from function.journal.evidence import checkpoints_name, proof_name, read_evidence, statement_name
from function.journal.files import Files
from function.journal.segments import segment_name, segment_number
from function.transparency import checkpoint as checkpoints

START = 1_790_000_000


class Killed(BaseException):
    """SIGKILL: nothing more happens in that process."""


class MortalFiles(ModelFiles):
    """Kills the process at call number ``kill_at``, in the middle of a write where it is one."""

    def __init__(self, kill_at=0, **faults):
        super().__init__(**faults)
        self._kill_at = kill_at
        self.open_files = set()

    def create(self, path):
        fd = super().create(path)
        self.open_files.add(fd)
        return fd

    def write(self, fd, data):
        if self._kill_at and len(self.calls) + 1 >= self._kill_at and len(data) > 1:
            Files.write(self, fd, bytes(data)[: len(data) // 2])
        return super().write(fd, data)

    def close(self, fd):
        super().close(fd)
        self.open_files.discard(fd)

    def _called(self, operation):
        if self._kill_at and len(self.calls) + 1 >= self._kill_at:
            raise Killed
        super()._called(operation)


@dataclass
class Made:
    """A journal, and what is known of it elsewhere."""

    path: str
    keys: tuple = (KEY,)
    old: tuple = ()
    heads: list = field(default_factory=list)
    groups: dict = field(default_factory=dict)  # directory: its lines, group by group

    def anchors(self, *, of_answers=True, of_sinks=True):
        """Return what the API server's own log and the sinks hold."""
        found = Anchors([], {})
        for size, root, directory in self.heads if of_answers else ():
            found.heads[TreeHead(size, root, directory)] = "native.log"
        for directory in directories(self.path) if of_sinks else ():
            for contents in read_evidence(Files(), directory).checkpoints.values():
                for data in (one for content in contents for one in checkpoints.split(content)[0]):
                    found.checkpoints.append((*checkpoints.parse_signed(data), "sink.ndjson"))
        return found


def lines_of(rng, records):
    """Yield lines of both formats, and small ones."""
    number = 0
    while True:
        number += 1
        yield rng.choice(records) if records and rng.random() < 0.1 else line(number, rng.randrange(80))


# -- untouched ------------------------------------------------------------------------------------------------------


def untouched(rng, path, records):
    """Return a journal that nobody changed: some process starts, each with a fate of its own."""
    made = Made(str(path))
    rotates = rng.random() < 0.3
    if rotates:
        made.keys, made.old = ((NEW_KEY,), (KEY,)) if rng.random() < 0.7 else ((NEW_KEY, KEY), ())
    starts = rng.randint(1, 4)
    for start in range(starts):
        before = start * 2 < starts
        signers = ((KEY,) if before else (NEW_KEY,)) if rotates else (KEY,)
        rotation = rotates and before and start * 2 + 2 >= starts
        _one_process(rng, made, records, START + 100 * start, signers, rotation=rotation)
        last = (NEW_KEY,) if rotates and not before else signers
        if rng.random() < 0.5:
            bounds = {"bytes_max": rng.choice((1, 5_000, 20_000))} if rng.random() < 0.5 else {}
            _sweep(rng, path, last, bounds)
    return made


def _one_process(rng, made, records, start, signers, *, rotation):
    calls = rng.randint(1, 160)
    fault = rng.choice(("none", "none", "EIO", "ENOSPC", "kill", "kill"))
    files = MortalFiles(
        kill_at=calls if fault == "kill" else 0,
        fail_at=calls if fault in ("EIO", "ENOSPC") else 0,
        error=errno.ENOSPC if fault == "ENOSPC" else errno.EIO,
        sticky=rng.choice((1, 2, 5, 30)),
        short=fault == "ENOSPC" and rng.random() < 0.5,
    )
    lines = lines_of(rng, records)
    journal = None
    with contextlib.suppress(Killed):
        every_second = rng.random() < 0.3
        journal = SealedJournal(
            made.path, signers=signers, files=files, seconds=rng.choice((0, 0, 3600)), every_second=every_second,
            segment_bytes=rng.choice((200, 1000, 100_000)), now=lambda: start,
        )  # fmt: skip
        groups = rng.randint(1, 12)
        for group in range(groups):
            if rotation and group == groups // 3:
                journal.signers = (KEY, NEW_KEY)
            if rotation and group == groups * 2 // 3:
                journal.signers = (NEW_KEY,)
            journal.store(*(next(lines) for _ in range(rng.randint(1, 5))))
        if rng.random() < 0.8:
            journal.close()
        else:
            raise Killed
    _end(journal, files)
    is_cut = rng.random() < 0.3
    if is_cut:
        files.crash(made.path)
    # Under everysec a power cut, or a disk that fails for good, takes lines that were answered: nobody can prove these.
    if journal is not None and not (every_second and (is_cut or journal.observer.losses)):
        made.heads += journal.heads


def _end(journal, files):
    """Close what a killed process had open; its directory looks dead."""
    locks = [journal.writer._lock_fd] if journal is not None else []
    for fd in {*files.open_files, *(fd for fd in locks if fd is not None)}:
        with contextlib.suppress(OSError):
            os.close(fd)
    if journal is not None:
        for directory in directories(journal.path):
            lock = f"{directory}/lock"
            if os.path.exists(lock) and os.stat(lock).st_mtime != 0:
                age(directory)


def _sweep(rng, path, signers, bounds):
    """Adopt and remove; killed in the middle of it now and then, or on a full disk."""
    fate = rng.random()
    at = rng.randint(1, 60)
    files = MortalFiles(kill_at=at if fate < 0.2 else 0, fail_at=at if 0.2 < fate < 0.3 else 0, error=errno.EIO)
    with contextlib.suppress(Killed, OSError):
        sweep(path, signers=signers, files=files, **bounds)
    if rng.random() < 0.5 and os.path.exists(path):
        sweep(path, signers=signers, **bounds)


# -- an adversary ---------------------------------------------------------------------------------------------------


def sealed_whole(rng, path, records, *, signers=(KEY,), start=START, made=None):
    """Return a journal of a process that ended well: every line is under a checkpoint."""
    made = made or Made(str(path))
    journal = SealedJournal(path, signers=signers, segment_bytes=rng.choice((250, 800, 3000)), now=lambda: start)
    lines = lines_of(rng, records)
    groups = []
    for _ in range(rng.randint(4, 12)):
        groups.append([next(lines) for _ in range(rng.randint(1, 4))])
        journal.store(*groups[-1])
    made.groups[journal.writer.directory] = groups
    journal.close()
    made.heads += journal.heads
    return made


def attacked(rng, path, records):
    """Return (what was done, the journal, the anchors that somebody has kept): every one must be named."""
    made = sealed_whole(rng, path, records)
    if rng.random() < 0.5:
        sealed_whole(rng, path, records, start=START + 100, made=made)
    name = rng.choice(sorted(ATTACKS))
    anchors = made.anchors()
    done = ATTACKS[name](rng, made, records)
    needs_anchors = name in ANCHORED
    what = f"{name}: {done}"
    return what, made, anchors if needs_anchors else Anchors([], {})


def _directory(rng, made):
    return rng.choice(directories(made.path))


def _segments(directory):
    numbers = sorted(n for name in os.listdir(directory) if (n := segment_number(name)) is not None)
    return [f"{directory}/{segment_name(number)}" for number in numbers]


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def _segment(rng, made):
    return rng.choice(_segments(_directory(rng, made)))


def _flip(rng, path):
    data = bytearray(_read(path))
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    _write(path, bytes(data))
    return f"{os.path.basename(path)} byte {at}"


def flip_a_bit(rng, made, records):
    return _flip(rng, _segment(rng, made))


def flip_a_bit_of_the_evidence(rng, made, records):
    directory = _directory(rng, made)
    names = [name for name in os.listdir(directory) if name.endswith((".checkpoints", ".statement", ".tlog-proof"))]
    return _flip(rng, f"{directory}/{rng.choice(sorted(names))}")


def _edit(rng, path, edit):
    lines = _read(path).splitlines(keepends=True)
    edit(lines)
    _write(path, b"".join(lines))
    return os.path.basename(path)


def delete_a_line(rng, made, records):
    return _edit(rng, _segment(rng, made), lambda lines: lines.pop(rng.randrange(len(lines))))


def insert_a_record(rng, made, records):
    new = rng.choice((line(999), b"\n", line(1)))
    return _edit(rng, _segment(rng, made), lambda lines: lines.insert(rng.randint(0, len(lines)), new))


def change_a_line(rng, made, records):
    def change(lines):
        lines[rng.randrange(len(lines))] = line(12345)

    return _edit(rng, _segment(rng, made), change)


def swap_lines(rng, made, records):
    def swap(lines):
        different = [i for i, one in enumerate(lines) if one != lines[0]]
        if different:
            other = rng.choice(different)
            lines[0], lines[other] = lines[other], lines[0]
        else:
            lines.append(line(4711))

    return _edit(rng, _segment(rng, made), swap)


def swap_segments(rng, made, records):
    paths = [path for directory in directories(made.path) for path in _segments(directory)]
    first = rng.choice(paths)
    others = [path for path in paths if _read(path) != _read(first)]
    if not others:
        return delete_a_line(rng, made, records)
    other = rng.choice(others)
    mine, theirs = _read(first), _read(other)
    _write(first, theirs)
    _write(other, mine)
    return f"{first} and {other}"


def cut_the_end(rng, made, records):
    path = _segments(_directory(rng, made))[-1]
    size = os.path.getsize(path)
    os.truncate(path, cut := rng.randrange(size))
    return f"{size} to {cut}"


def append_bytes(rng, made, records):
    path = _segment(rng, made)
    _write(path, _read(path) + rng.choice((b"x", b'{"record":', b"\0")))
    return os.path.basename(path)


def drop_a_segment(rng, made, records):
    os.remove(path := _segment(rng, made))
    return path


def drop_a_segment_and_its_evidence(rng, made, records):
    paths = _segments(_directory(rng, made))
    if len(paths) < 2:
        return delete_a_line(rng, made, records)
    path = rng.choice(paths[:-1])
    number = segment_number(os.path.basename(path))
    for name in (segment_name, checkpoints_name, statement_name, proof_name):
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{os.path.dirname(path)}/{name(number)}")
    return path


def drop_a_directory(rng, made, records):
    shutil.rmtree(directory := _directory(rng, made))
    return directory


def drop_all_evidence_of_a_directory(rng, made, records):
    directory = _directory(rng, made)
    for name in os.listdir(directory):
        if segment_number(name) is None and name != "lock":
            os.remove(f"{directory}/{name}")
    return directory


def drop_a_statement(rng, made, records):
    directory = _directory(rng, made)
    names = [name for name in os.listdir(directory) if name.endswith((".statement", ".tlog-proof"))]
    os.remove(path := f"{directory}/{rng.choice(sorted(names))}")
    return path


def _checkpoint_files(rng, made):
    directory = _directory(rng, made)
    return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if name.endswith(".checkpoints")]


def drop_a_checkpoint(rng, made, records):
    path = rng.choice(_checkpoint_files(rng, made))
    found, _ = checkpoints.split(_read(path))
    found.pop(rng.randrange(len(found)))
    _write(path, b"".join(found))
    return path


def replay_an_older_checkpoint(rng, made, records):
    paths = _checkpoint_files(rng, made)
    everything = [one for path in paths for one in checkpoints.split(_read(path))[0]]
    path = paths[-1]
    found, _ = checkpoints.split(_read(path))
    older = [one for one in everything if checkpoints.parse_signed(one)[0].size < _size(found[-1])]
    if rng.random() < 0.5:
        _write(path, b"".join(found) + rng.choice(older))
    else:
        _write(path, b"".join([*found[:-1], rng.choice(older)]))
    return path


def _size(data):
    return checkpoints.parse_signed(data)[0].size


def renumber(rng, made, records):
    directory = _directory(rng, made)
    numbers = [segment_number(os.path.basename(path)) for path in _segments(directory)]
    from_ = rng.choice(numbers)
    for number in sorted((n for n in numbers if n >= from_), reverse=True):
        for name in (segment_name, checkpoints_name, statement_name, proof_name):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{directory}/{name(number)}", f"{directory}/{name(number + 1)}")
    return f"{directory} from {from_}"


def rename_a_directory(rng, made, records):
    directory = _directory(rng, made)
    os.rename(directory, directory[:-8] + "00000000")
    return directory


def _reseal(rng, made, groups, signers, directory):
    """Write the directory anew, as one who has these keys can: same name, same origin."""
    shutil.rmtree(directory)
    random_part = directory.rsplit("-", 1)[1]
    start = _started(directory)
    journal = SealedJournal(made.path, signers=signers, segment_bytes=rng.choice((250, 800, 3000)), now=lambda: start)
    journal.writer._random = lambda: random_part
    for group in groups:
        journal.store(*group)
    journal.close()
    assert os.path.isdir(directory)


def _started(directory):
    """Return the moment in a directory's name, in seconds."""
    text = directory.rsplit("-", 2)[-2]
    return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))


def _changed(rng, made):
    directory = _directory(rng, made)
    groups = [list(group) for group in made.groups[directory]]
    at = rng.randrange(len(groups))
    groups = [*groups[:at], [line(rng.randrange(10**6, 10**7))], *groups[at + rng.randint(0, 1) :]]
    return directory, groups, at


def rewrite_and_sign_with_a_wrong_key(rng, made, records):
    directory, groups, at = _changed(rng, made)
    _reseal(rng, made, groups, (OTHER_KEY,), directory)
    return f"{directory} from group {at}"


def rewrite_and_sign_with_the_right_key(rng, made, records):
    directory, groups, at = _changed(rng, made)
    _reseal(rng, made, groups, (KEY,), directory)
    return f"{directory} from group {at}"


def cut_the_end_and_sign_with_the_right_key(rng, made, records):
    directory = _directory(rng, made)
    groups = made.groups[directory]
    _reseal(rng, made, groups[: rng.randrange(len(groups) - 1) + 1], (KEY,), directory)
    return directory


def reseal_with_a_stolen_old_key(rng, made, records):
    """KEY was replaced by NEW_KEY before the last two directories began; one of them is written anew with KEY."""
    shutil.rmtree(made.path)
    made.groups.clear()
    made.keys, made.old = (NEW_KEY,), (KEY,)
    sealed_whole(rng, made.path, records, made=made)
    sealed_whole(rng, made.path, records, made=made, start=START + 50, signers=(NEW_KEY,))
    sealed_whole(rng, made.path, records, made=made, start=START + 100, signers=(NEW_KEY,))
    directory = next(one for one in directories(made.path) if _started(one) == START + 100)
    groups = [*made.groups[directory][:-1], [line(31337)]]
    _reseal(rng, made, groups, (KEY,), directory)
    return directory


def remove_and_say_nothing(rng, made, records):
    """Retention removed a part and signed for it; that statement goes, or more segments than it says."""
    sweep(made.path, bytes_max=1)
    if rng.random() < 0.5:
        directory = _directory(rng, made)
        for name in os.listdir(directory):
            if name.startswith("retention-"):
                os.remove(f"{directory}/{name}")
        return "the statement"
    directory = _directory(rng, made)
    for name in os.listdir(directory):
        if name.endswith(".tlog-proof"):
            return _flip(rng, f"{directory}/{name}")
    return delete_a_line(rng, made, records)


ATTACKS = {
    one.__name__: one
    for one in (
        flip_a_bit, flip_a_bit_of_the_evidence, delete_a_line, insert_a_record, change_a_line, swap_lines,
        swap_segments, cut_the_end, append_bytes, drop_a_segment, drop_a_segment_and_its_evidence, drop_a_directory,
        drop_all_evidence_of_a_directory, drop_a_statement, drop_a_checkpoint, replay_an_older_checkpoint, renumber,
        rename_a_directory, rewrite_and_sign_with_a_wrong_key, rewrite_and_sign_with_the_right_key,
        cut_the_end_and_sign_with_the_right_key, reseal_with_a_stolen_old_key, remove_and_say_nothing,
    )
}  # fmt: skip
# Only what was kept elsewhere can show these.
ANCHORED = {
    "drop_a_directory", "rewrite_and_sign_with_the_right_key", "cut_the_end_and_sign_with_the_right_key",
}  # fmt: skip


def seeded(seed):
    return random.Random(f"{NAME} {seed}")


__all__ = ["ATTACKS", "Made", "attacked", "seeded", "untouched"]
