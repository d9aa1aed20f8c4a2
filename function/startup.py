"""What a host starts with: settings and service, or an end with all that is wrong on stderr (exit code 2)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from .configuration import settings as environment
from .configuration.settings import Mistake, Setting, Settings, SettingsError, SinkSettings
from .forwarding.sinks import SINKS

if TYPE_CHECKING:
    from .serving.bounds import Bounds
    from .serving.service import Service

__all__ = ["every_setting", "load", "service_or_exit", "settings_or_exit"]


def load(environ: Mapping[str, str], *, watches: bool = False) -> Settings:
    """Return the settings in ``environ``, those of the sinks it names included. Raises `SettingsError`."""
    return environment.load(environ, SINKS, _watching, watches=watches)


def every_setting() -> tuple[Setting, ...]:
    """Return every setting there is, those of all sinks and of `watch` included."""
    return environment.every(SINKS, _watching)


def service_or_exit(environ: Mapping[str, str], *, forwards: bool, bounds: Bounds | None = None) -> Service:
    """Return the service of ``environ``, not opened yet: a call that opens it could not say what is wrong.

    ``forwards`` says whether this host runs a forwarder beside it; one that does not refuses `AUDIT_FORWARD_TO`.
    """
    from .configuration.files import ConfigurationError  # noqa: PLC0415 - `forward` needs neither
    from .serving.service import Service  # noqa: PLC0415 - as above

    if environ.get("AUDIT_FORWARD_TO") and not forwards:
        _exit(_mistakes_without_forwarder(dict(environ)))
    settings = settings_or_exit(environ)
    if settings.needs_forwarder and not forwards:
        _exit(_mistakes_of_no_forwarder(settings))
    try:
        return Service(settings, bounds)
    except ConfigurationError as error:
        _exit([error])


def settings_or_exit(environ: Mapping[str, str], *, watches: bool = False) -> Settings:
    """Return the settings in ``environ``."""
    try:
        return load(environ, watches=watches)
    except SettingsError as error:
        _exit(error.mistakes)


def _watching() -> SinkSettings:
    from .watching.settings import SETTINGS  # noqa: PLC0415 - imported where one of them is set, or `watch` is run

    return SETTINGS


def _mistakes_without_forwarder(environ: dict[str, str]) -> list[Mistake]:
    """Return that nothing forwards here, and what else is wrong; not what sinks would need that cannot be used."""
    hint = "run `python -m function forward` beside this, on the same journal directory, and unset it here"
    found = [Mistake("AUDIT_FORWARD_TO", environ.pop("AUDIT_FORWARD_TO"), "this host runs no forwarder", hint)]
    try:
        load(environ)
    except SettingsError as error:
        found += error.mistakes
    return found


def _mistakes_of_no_forwarder(settings: Settings) -> list[Mistake]:
    hint = "run `python -m function forward` beside this, on the same journal directory, and unset it here"
    needed = {
        "AUDIT_SEAL_WITNESSES": (settings.seal.witnesses, "asks witnesses"),
        "AUDIT_ARCHIVE_URL": (settings.journal.archive_url, "archives segments"),
        "AUDIT_SEGMENT_COMPRESS": (settings.journal.segment_compress != "none", "compresses segments"),
    }
    return [
        Mistake(name, "", f"this host runs no forwarder, which {does}", hint)
        for name, (wanted, does) in needed.items()
        if wanted
    ]


def _exit(mistakes: Sequence[object]) -> NoReturn:
    for mistake in mistakes:
        print(f"kube-audit-function: {mistake}", file=sys.stderr)  # noqa: T201 - the log is not set up yet
    raise SystemExit(2)
