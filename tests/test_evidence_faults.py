"""Evidence where something is in the way: full disks, odd files, keys mixed up, retention that works meanwhile."""

import json
import os
import pathlib
import shutil
import sys
import tempfile

import pytest
import running
from sealed import KEY, NEW_KEY, SealedJournal, directories, line, sweep, verified, wrong

from function.__main__ import main
from function.evidence import hashing
from function.evidence.anchors import CHECKPOINT_KEY, Anchors, TreeHead, read_anchors
from function.evidence.log import Keys, read_log
from function.evidence.verification import verify
from function.journal.evidence import read_evidence
from function.journal.files import Files
from function.transparency import checkpoint as checkpoints
from function.transparency import note as notes
from function.transparency import proof as proofs
from function.transparency.keys import KeyType, SignerKey
from function.transparency.note import Note, Signature

VKEY = str(KEY.verifier)
# A command on a disk that takes ten bytes more.
FULL_DISK = """
import resource, sys
from function.__main__ import main
import function.commands.keys
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
sys.exit(main())
"""
WITNESS = SignerKey("w.example", bytes(range(7, 39)), KeyType.COSIGNATURE)


def run(capfd, *arguments):
    """Run a command here; return its exit code, standard output and standard error."""
    code = main([*map(str, arguments)])
    return code, *capfd.readouterr()


def written(path, lines, **more):
    """Write a sealed journal of one process; return its directory."""
    journal = SealedJournal(path, **more)
    for one in lines:
        journal.store(one)
    journal.close()
    return directories(path)[-1]


def record(uid):
    return (
        b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"%b","resource":{"group":"",'
        b'"version":"v1","resource":"pods"},"operation":"CREATE","userInfo":{}},"requestReceivedTimestamp":'
        b'"2026-11-24T11:43:52.395011123Z"}\n' % uid.encode()
    )


def checkpoints_of(directory):
    evidence = read_evidence(Files(), directory)
    return [one for some in evidence.checkpoints.values() for data in some for one in checkpoints.split(data)[0]]


# -- keys -----------------------------------------------------------------------------------------------------------


def test_a_name_that_cannot_seal_leaves_no_file(tmp_path, capfd):
    """The key file is ASCII: the name is refused before there is a file that would be in the way."""
    code, _, err = run(capfd, "keys", "new", "exämple.com/audit", "--out", tmp_path / "key")
    assert (code, "'exämple.com/audit' cannot name a key" in err) == (1, True)
    assert not (tmp_path / "key").exists()


def test_a_key_that_does_not_fit_on_the_disk_leaves_no_file(tmp_path):
    code, out, err = running.run(
        [sys.executable, "-c", FULL_DISK, "keys", "new", "a.example", "--out", tmp_path / "key"]
    )
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'key'}: File too large" in err
    assert not (tmp_path / "key").exists()


def test_a_key_that_is_none_is_named(tmp_path, capfd):
    """Not text, the secret key, the name of a file that is not there: which argument, and what to do."""
    binary, secret = tmp_path / "key.der", tmp_path / "seal.key"
    binary.write_bytes(b"\x30\x2a\xff\xfe")
    secret.write_text(f"{KEY.text()}\n")
    for argument, text in (
        (binary, f"{binary}: not text"),
        (secret, f"{secret}: it is not a verifier key, but a secret one (hint: `keys show FILE`"),
        ("seal.vkye", "'seal.vkye' is neither a file nor a key"),
    ):
        code, out, err = run(capfd, "verify", tmp_path, "--key", argument)
        assert (code, out) == (2, "")
        assert text in err
        assert KEY.text()[-20:] not in err
    code, _, err = run(capfd, "keys", "show", binary)
    assert (code, f"{binary} is no file of keys" in err) == (1, True)


# -- proofs ---------------------------------------------------------------------------------------------------------


def test_a_proof_with_a_wrong_cosignature_is_not_proved(tmp_path, capfd):
    """As in a journal: whoever gave the witness's key is not told that its key is missing."""
    written(tmp_path / "journal", [record("one")])
    assert run(capfd, "prove", tmp_path / "journal", "one", "--out", tmp_path)[0] == 0
    file = tmp_path / "one.tlog-proof"
    proof = proofs.parse(file.read_bytes())
    note = notes.parse(proof.checkpoint)
    for text, code in ((note.text, 0), (f"{note.text}another\n", 1)):
        signed = WITNESS.cosignature(text.encode(), 1_700_000_000)
        cosigned = Note(note.text, (*note.signatures, Signature(WITNESS.name, WITNESS.verifier.key_id, signed)))
        file.write_bytes(proofs.Proof(proof.index, proof.path, cosigned.encode()).encode())
        command = ["verify", "--proof", file, "--key", VKEY, "--key", WITNESS.verifier]
        found, out, _ = run(capfd, *command)
        assert (found, "w.example" in out) == (code, True)


def test_a_retired_key_alone_proves_no_entry(tmp_path, capfd):
    """A thief of it can sign any entry, and nothing in a proof says when that was."""
    written(tmp_path / "journal", [record("forged")])
    assert run(capfd, "prove", tmp_path / "journal", "forged", "--out", tmp_path)[0] == 0
    command = ["verify", "--proof", tmp_path / "forged.tlog-proof", "--key", NEW_KEY.verifier, "--old-key", VKEY]
    code, out, _ = run(capfd, *command)
    assert (code, "signed with an old key only" in out) == (2, True)
    written(tmp_path / "both", [record("both")], signers=(KEY, NEW_KEY))
    assert run(capfd, "prove", tmp_path / "both", "both", "--out", tmp_path)[0] == 0
    assert run(capfd, *command[:2], tmp_path / "both.tlog-proof", *command[3:])[0] == 0


def test_what_can_be_proved_is_proved(tmp_path, capfd):
    """Two replicas recorded the review, and the one was killed before its first checkpoint."""
    written(tmp_path, [record("twice")])
    killed = SealedJournal(tmp_path, seconds=1e9)
    killed.store(record("twice"))
    killed.kill()
    code, out, err = run(capfd, "prove", tmp_path, "twice", "--out", tmp_path)
    assert (code, "entry 1, line 1 of " in out) == (0, True)
    assert f"{os.path.basename(killed.writer.directory)}: no checkpoint covers it yet" in err
    assert run(capfd, "verify", "--proof", tmp_path / "twice.tlog-proof", "--key", VKEY)[0] == 0


def test_a_uid_that_no_terminal_can_type(tmp_path, capfd):
    written(tmp_path, [record("one")])
    code, _, err = run(capfd, "prove", tmp_path, os.fsdecode(b"\xff"))
    assert (code, "no record" in err) == (1, True)


# -- anchors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [b"\n", b"# saved by cron\n", b"example.com/audit/prod/torn\n12\n\n"])
def test_anchors_behind_what_is_none_count_as_well(between, tmp_path):
    """Somebody appended checkpoints for months: an empty line, a remark, a torn one hide none of those behind it."""
    known = checkpoints_of(written(tmp_path / "journal", map(line, range(4))))
    assert len(known) > 3
    saved = tmp_path / "saved"
    saved.write_bytes(between.join(known))
    found = Anchors([], {})
    assert read_anchors(str(saved), lambda: iter([saved.read_bytes()]), found) == len(known)


def test_an_export_may_be_nested_deeply(tmp_path, capfd):
    """Somebody's object in it is as deep as its JSON may be; the checkpoint behind it is found."""
    known = json.dumps({CHECKPOINT_KEY: checkpoints_of(written(tmp_path / "journal", [line(0)]))[-1].decode()})
    saved = tmp_path / "export.ndjson"
    saved.write_text(f"{'[' * 1010}{known}{']' * 1010}\n{known}\n")
    code, out, err = run(capfd, "verify", tmp_path / "journal", "--key", VKEY, "--anchors", saved)
    assert (code, err) == (0, ""), out
    assert "no anchor" not in out


def test_anchors_are_held_against_every_copy(tmp_path):
    """A journal and its backup are verified at once: that an end is missing is said of each that lacks it."""
    directory = pathlib.Path(written(tmp_path / "a", [line(0)]))
    copy = pathlib.Path(shutil.copytree(directory, tmp_path / "b" / directory.name))
    paths = [str(directory), str(copy)]
    assert verified("", paths=paths).result == "proved"
    anchors = Anchors([], {TreeHead(9, bytes(32), directory.name): "native.log"})
    texts = [one.text for one in wrong(verified("", paths=paths, anchors=anchors))]
    assert texts == ["entries 2 to 9 are missing, and no statement says that retention removed them"] * 2


def test_the_checkpoint_of_one_process(tmp_path, capfd):
    """Its directory is named as for `verify`: it is sealed, and says so."""
    directory = written(tmp_path, [line(0)])
    code, out, _ = run(capfd, "checkpoint", directory)
    assert (code, out) == (0, run(capfd, "checkpoint", tmp_path)[1])


# -- the journal ----------------------------------------------------------------------------------------------------


def test_lost_and_found_is_no_part_of_the_journal(capfd):
    """A volume of its own has one, for root alone; another directory that cannot be read is not passed over."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        written(path, [line(0)])
        path.chmod(0o755)
        for one in [path / "lost+found", path / "closed-20260101T000000Z-00000000"]:
            one.mkdir(mode=0o000)
            for entry in path.rglob("*"):
                os.chmod(entry, 0o000 if entry == one else 0o755)
            user = os.geteuid()
            if not user:
                os.seteuid(65534)
            try:
                codes = [run(capfd, "verify", path, "--key", VKEY)[0], run(capfd, "checkpoint", path)[0]]
            finally:
                os.seteuid(user)
            assert codes == ([0, 0] if one.name == "lost+found" else [2, 2])
        for one in path.iterdir():
            one.chmod(0o755)


def test_retention_removes_while_the_journal_is_read(tmp_path):
    """A segment goes between the reading of what was signed and that of the lines: it was signed for, too."""
    written(tmp_path, map(line, range(20)))
    swept = []

    def checked(tasks):
        if not swept:
            swept.append(remove_some(tmp_path))
        return map(hashing.check, tasks)

    found = verify(directories(tmp_path), Keys([KEY.verifier]), Anchors([], {}), checked)
    assert swept
    assert found.result == "proved"
    assert 0 < found.directories[0].first < 20


def remove_some(path):
    """Let retention remove a few segments."""
    sweep(path, bytes_max=sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) - 500)


def test_lines_that_a_dead_writers_directory_grew_are_found(tmp_path):
    """Its last checkpoint covers all that it wrote; the adoption says that there was no more."""
    journal = SealedJournal(tmp_path)
    journal.store(line(0))
    journal.kill()
    sweep(tmp_path)
    found = verified(tmp_path)
    assert (found.result, found.directories[0].sealed, found.directories[0].adopted) == ("proved", 1, 1)
    (segment,) = pathlib.Path(directories(tmp_path)[0]).glob("*.ndjson")
    segment.write_bytes(segment.read_bytes() + line(1))
    assert "1 lines more than were found when it was adopted" in [one.text for one in wrong(verified(tmp_path))]


class Swept(Files):
    """Files of a journal whose retention comes when a directory is listed for the first time."""

    def __init__(self, path):
        self.path = path

    def entries(self, path):
        if self.path:
            kept, self.path = self.path, None
            remove_some(kept)
        return super().entries(path)


def test_retention_removes_while_the_evidence_is_read(tmp_path):
    """What was signed is read first, the list of segments then: between them retention says what it removes."""
    directory = written(tmp_path, map(line, range(20)))
    log = read_log(directory, Keys([KEY.verifier]), Swept(tmp_path))
    assert min(log.segments) > 1
    assert log.removed
    assert not wrong(verified(tmp_path))


def test_the_number_of_processes_is_what_was_asked_for(tmp_path, monkeypatch, capfd):
    """Also where nobody can say which cores this process may use (macOS)."""
    written(tmp_path, [line(0)])
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "cpu_count")
    assert run(capfd, "verify", tmp_path, "--key", VKEY, "--jobs", 1)[0] == 0
