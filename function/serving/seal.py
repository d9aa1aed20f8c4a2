"""The keys that seal the journal, from AUDIT_SEAL_KEY_FILE: imported only where that is set."""

from __future__ import annotations

import logging
import os
import socket

from ..configuration.files import ConfigurationError
from ..configuration.settings import SealSettings
from ..journal.sealing import Sealer
from ..journal.statements import Statements
from ..metrics import Metrics
from ..mounts import Watch, resolve, signature
from ..transparency.keys import SignerKey, parse_signer_key

__all__ = ["Seal", "load_signers"]

log = logging.getLogger("audit.seal")

_OTHERS = 0o007


class Seal:
    """Who signs. Keys are read at the start and when the file changes. Raises `ConfigurationError`."""

    def __init__(self, settings: SealSettings, cluster: str, metrics: Metrics) -> None:
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._seen = signature((settings.key_file,))  # before it is read: see `Watch`
        try:
            self._signers = load_signers(settings.key_file)
        except (ValueError, OSError) as error:
            raise ConfigurationError("AUDIT_SEAL_KEY_FILE", str(error), "see docs/evidence.md") from None

    def names(self) -> str:
        """Return the verifier keys, for the log: they are public."""
        return ", ".join(str(signer.verifier) for signer in self._signers)

    def sealer(self) -> Sealer:
        """Return what the journal's writer tells."""
        sealer = Sealer(
            lambda: self._signers, cluster=self._cluster, seconds=self._settings.seconds, observer=self._metrics
        )
        self._metrics.unsealed.set_function(lambda: sealer.unsealed)
        return sealer

    def statements(self) -> Statements:
        """Return what retention signs with."""
        return Statements(lambda: self._signers, host=socket.gethostname())

    def watch(self) -> Watch:
        """Return what to watch: a new file of keys is in force with the next checkpoint."""

        def load() -> None:
            self._signers = load_signers(self._settings.key_file)
            log.info("seal: signing with %s", self.names())

        return Watch("seal_key", (self._settings.key_file,), load, self._seen)


def load_signers(path: str) -> tuple[SignerKey, ...]:
    """Return the keys of a file, one a line. Raises `OSError`, and `ValueError` that says nothing of a secret."""
    resolved = resolve([path])[0]
    with open(resolved, encoding="ascii") as file:
        is_open_to_others = os.fstat(file.fileno()).st_mode & _OTHERS
        try:
            text = file.read(1 << 16)
        except UnicodeDecodeError:
            raise ValueError("not text") from None
    if is_open_to_others:
        log.warning("seal: every user of this machine may read %s", path, extra={"hint": f"chmod o-rwx {path}"})
    signers = tuple(parse_signer_key(line.strip()) for line in text.splitlines() if line.strip())
    if not signers:
        raise ValueError("holds no key (hint: python -m function keys new NAME --out FILE makes one)")
    if len({(signer.name, signer.verifier.key_id) for signer in signers}) < len(signers):
        raise ValueError("holds a key twice")
    signers[0].signature(b"warm up\n")  # the first one imports cryptography: not while a review waits
    return signers
