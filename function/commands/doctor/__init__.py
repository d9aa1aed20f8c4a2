"""`python -m function doctor`: what is wrong with this installation, and what to do about it.

doctor               what can be seen from here: settings, volume, clock, certificate, port, sinks, archive
doctor --kubectl     from outside, with a kubeconfig: the same in each pod, and the cluster: webhook, Service, a canary
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from ...configuration.settings import STDOUT, Settings
from ...doctor.finding import Finding, fail, has_failed, skip
from ...doctor.webhook import Configuration, UnreadableError
from ...watching.watch import CannotWatch, api_server, read_reference
from ..command_line import PROGRAM, Parser, default_journal, say
from . import cluster, output, pods
from .address import reached
from .api import Api, CannotAskError, FromPod, RefusedError
from .here import CHECKS, Here, check_here, loaded
from .journal import is_recorded
from .kubectl import Kubectl

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} doctor
{PROGRAM} doctor --kubectl
{PROGRAM} doctor --kubectl --context prod -n kube-audit-function -o json
{PROGRAM} doctor --webhook webhook.yaml --skip sinks
"""
_OF_CLUSTER = ("webhook", "service", "network-policy", "canary")


def main(arguments: list[str]) -> int:
    """Check; return 0 where all is ok or a warning, 1 where a check failed, 2 for a mistake in arguments."""
    options = parser().parse_args(arguments)
    if options.recorded:
        print("yes" if is_recorded(default_journal(), options.recorded) else "no")
        return 0
    try:
        examination = _Examination(options)
        findings = output.write(examination.findings(), as_json=options.output == "json")
    except _WrongCallError as error:
        say(str(error))
        return 2
    return 1 if has_failed(findings) else 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} doctor",
        description="Check an installation: each line is ok, warn, fail (with a hint), or skip: could not be checked "
        "from here. Where a token of a service account is mounted, the cluster is asked from inside.",
        examples=EXAMPLES,
        notes="It sends a test record to each sink, and the API server one dry run of a create, which stores nothing. "
        "No token is printed. Exit code 1: a check failed. docs/doctor.md lists the checks.",
    )
    made.add_argument("--kubectl", action="store_true", help="ask the cluster, and each pod, through kubectl")
    for option, meaning in (("context", "NAME"), ("kubeconfig", "FILE"), ("as", "USER")):
        made.add_argument(
            f"--{option}", metavar=meaning, dest=f"kubectl_{option}", help="as kubectl takes it; implies --kubectl"
        )
    default = os.environ.get("KUBECTL_AUDIT_NAMESPACE") or "kube-audit-function"
    made.add_argument("-n", "--namespace", default=default, help="where the pods are (%(default)s)")
    default = os.environ.get("KUBECTL_AUDIT_SELECTOR") or "app.kubernetes.io/name=kube-audit-function"
    made.add_argument("--selector", metavar="LABELS", default=default, help="the pods (%(default)s)")
    default = os.environ.get("KUBECTL_AUDIT_CONTAINER") or ""
    made.add_argument("--container", metavar="NAME", default=default, help="in them (of Knative: user-container)")
    made.add_argument("--webhook", metavar="FILE", help="judge this webhook configuration, YAML or JSON (-: stdin)")
    names = [*CHECKS, *_OF_CLUSTER]
    made.add_argument("--skip", metavar="CHECK", action="append", default=[], choices=names, help=", ".join(names))
    made.add_argument("-o", "--output", choices=["text", "json"], default="text")
    made.add_argument("--json", dest="output", action="store_const", const="json", help="as -o json")
    made.add_argument("--recorded", metavar="NAME", help=argparse.SUPPRESS)  # by another `doctor`, in a pod
    return made


class _WrongCallError(Exception):
    """The command was called in a way that cannot work."""


class _Examination:
    """What is asked, and in which order: the configuration first, because the other checks are held against it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._settings, self._of_settings = loaded(os.environ)
        self._kubectl = _kubectl(options)
        self._api, self._why_not = self._new_api()
        self._is_unreachable = False

    def findings(self) -> Iterator[Finding]:
        """Yield all of them."""
        found, listed, trouble = self._configurations()
        if not self._is_outside():
            yield from self._here(found or [])
        elif self._kubectl is not None and not self._is_unreachable:
            yield from pods.check_pods(self._kubectl, self._options, listed)
        for finding in trouble:
            yield finding._replace(where="cluster")
        for finding in self._cluster(found) if not self._is_unreachable else ():
            yield finding._replace(where="cluster")

    # -- steps ------------------------------------------------------------------------------------------------

    def _new_api(self) -> tuple[Api | None, str]:
        if self._kubectl is not None:
            return self._kubectl, ""
        if self._settings is None:
            return None, "the settings hold mistakes"
        try:
            return FromPod(api_server(self._settings.watching)), ""
        except CannotWatch as error:
            return None, str(error)

    def _is_outside(self) -> bool:
        """Return whether the function runs elsewhere: kubectl is used, and nothing of it is set here."""
        return self._kubectl is not None and not any(name.startswith("AUDIT_") for name in os.environ)

    def _configurations(self) -> tuple[list[Configuration] | None, str, list[Finding]]:
        """Return our webhook configurations (None: not known), the same as JSON, and why they are not known."""
        try:
            if self._options.webhook:
                text = _read(self._options.webhook)
                return cluster.found_in(text), text, []
            if self._api is None:
                return None, "", []
            text = cluster.registered(self._api)
            return cluster.found_in(text), text, []
        except UnreadableError as error:
            if self._options.webhook:
                raise _WrongCallError(f"{self._options.webhook}: {error}") from None
            return None, "", [skip("webhook", str(error))]
        except RefusedError as error:
            hint = "it takes the right to list validatingwebhookconfigurations"
            return None, "", [skip("webhook", f"the API server does not list them: {error}", hint)]
        except CannotAskError as error:
            self._is_unreachable = True
            hint = "is it the right context or address, and is the network open to it?"
            return None, "", [fail("cluster", f"the API server cannot be asked: {error}", hint)]

    def _here(self, found: Sequence[Configuration]) -> Iterator[Finding]:
        if "settings" not in self._options.skip:
            yield from self._of_settings
        if self._settings is None:
            yield skip("here", "nothing else can be checked here before the settings are right")
            return
        yield from check_here(Here(self._settings, found), left_out=self._options.skip)

    def _cluster(self, found: list[Configuration] | None) -> Iterator[Finding]:
        left_out = self._options.skip
        if found is not None and "webhook" not in left_out:
            yield from cluster.check_webhooks(found)
            yield from self._compared(found)
        if self._api is None:
            asked = "the rest of the cluster is" if found is not None else "the cluster is"
            hint = f"`{PROGRAM} doctor --kubectl` asks it, from where your kubeconfig is"
            yield skip("cluster", f"{asked} not asked: {self._why_not}", hint)
            return
        yield from cluster.check_service(self._api, found or [], left_out=left_out)
        if self._is_outside() and "address" not in left_out:
            for client in (webhook.clientConfig for one in found or [] for webhook in one.webhooks):
                yield from () if client.service else reached(client)
        if "canary" not in left_out:
            yield from cluster.canary(self._api, self._finders(), runs_here=not self._is_outside())

    def _compared(self, found: Sequence[Configuration]) -> Iterator[Finding]:
        if self._settings is None or not self._settings.watching.webhook_file:
            return
        try:
            yield from cluster.compared(found, read_reference(self._settings.watching))
        except (OSError, ValueError) as error:
            hint = "it is one ValidatingWebhookConfiguration, such as deploy/webhook.yaml with its parameters filled in"
            yield fail("webhook", f"AUDIT_WATCH_WEBHOOK_FILE: {error}", hint)

    def _finders(self) -> Mapping[str, cluster.Finder]:
        if self._kubectl is not None and self._is_outside():
            return pods.finders(self._kubectl, self._options)
        settings: Settings | None = self._settings
        if settings is None or settings.journal.dir == STDOUT:
            return {}
        return {settings.journal.dir: lambda name: is_recorded(settings.journal.dir, name)}


def _kubectl(options: argparse.Namespace) -> Kubectl | None:
    given = {name: getattr(options, f"kubectl_{name}") for name in ("context", "kubeconfig", "as")}
    if not options.kubectl and not any(given.values()):
        return None
    if not Kubectl.is_installed():
        raise _WrongCallError("kubectl is not on the PATH: https://kubernetes.io/docs/tasks/tools/")
    return Kubectl([f"--{name}={value}" for name, value in given.items() if value])


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise _WrongCallError(f"--webhook {path}: {getattr(error, 'strerror', None) or error}") from None
