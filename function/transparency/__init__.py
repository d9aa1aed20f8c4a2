"""Tamper evidence in published formats: a Merkle tree over records, signed checkpoints of it, and proofs.

* `tree`: the tree of RFC 6962, growing, rolled back, going on from its right edge; `paths`: audit paths and
  consistency proofs, made while leaves stream by.
* `keys`, `note`: Ed25519 keys and signed notes as Go's ``sumdb/note`` writes them (c2sp.org/signed-note).
* `checkpoint`: the signed head of a tree (c2sp.org/tlog-checkpoint) and its cosignatures (c2sp.org/tlog-cosignature).
* `proof`: one entry, proved offline (c2sp.org/tlog-proof); `witness`: asking for cosignatures (c2sp.org/tlog-witness).

Pure: bytes in, values out; the time and randomness are arguments. A proof claims no more than it proves: a checkpoint
says what its key's holder signed; only a witness, or a copy elsewhere, says that nothing else was signed as well.
"""
