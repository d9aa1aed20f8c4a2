"""``python -m function clusters``: tokens, the Secret that holds them, and each cluster's webhook configuration.

A directory holds the state, a file a cluster, its newest token first: what `AUDIT_CLUSTERS_DIR` names, not mounted.
Documents go to standard output or to files that only their owner may read; everything else goes to standard error and
never holds a token.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import ssl
import sys
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from ..clusters import webhook
from ..clusters.directory import (
    SECRET,
    SUBDOMAIN,
    check_name,
    new_token,
    secret,
    tokens_in,
    write_private,
    write_tokens,
)
from ..clusters.tokens import ClustersError
from ..clusters.webhook import ServiceReference, WebhookError
from .clusters_check import check
from .command_line import PROGRAM, Parser, say, write_table

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} clusters add prod --url https://audit.example.com --output-dir out
{PROGRAM} clusters check prod --url https://audit.example.com
{PROGRAM} clusters rotate prod --url https://audit.example.com --output-dir out
{PROGRAM} clusters rotate prod --finish
{PROGRAM} clusters show prod --url https://audit.example.com
{PROGRAM} clusters list
{PROGRAM} clusters remove prod
"""

_HEADER = """\
# The tokens of every cluster, for the endpoint: mounted as AUDIT_CLUSTERS_DIR, read again when it changes.
# Made by `python -m function clusters`. It replaces the one before as a whole.
"""


class Document(NamedTuple):
    """One file to apply; ``where`` says in which cluster."""

    file: str
    where: str
    text: str


def main(argv: list[str]) -> int:
    """Run the command of ``argv`` (what follows ``clusters``) and return its exit code: 1 when it could not be done."""
    arguments = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        if "secret" in arguments:
            _pair(arguments.secret, "--secret")
        return command(arguments)
    except (ClustersError, WebhookError) as error:
        return _refused(str(error))
    except OSError as error:
        return _refused(f"{error.filename or 'the endpoint'}: {error.strerror or type(error).__name__}")


# -- the verbs ----------------------------------------------------------------------------------------------------


def _add(arguments: argparse.Namespace) -> int:
    """Make a token for a new cluster; for the single cluster, which has none, print its configuration."""
    if not arguments.name:
        return _show(arguments)
    check_name(arguments.name)
    if arguments.name in _tokens(arguments):
        raise ClustersError(f"{arguments.name} is there already: rotate makes it a new token, show prints it again")
    token = new_token()
    made = _webhook(arguments, token)  # before anything is written: it may be refused
    _write_tokens(arguments, [token])
    return _give(arguments, [_secret(arguments), made])


def _rotate(arguments: argparse.Namespace) -> int:
    """Put a new token before the old ones; with ``--finish`` keep the newest alone."""
    tokens = _known_tokens(arguments)
    if arguments.finish:
        _write_tokens(arguments, tokens[:1])
        say(f"{arguments.name}: {len(tokens) - 1} old tokens are gone; apply the Secret and nobody can use them")
        return _give(arguments, [_secret(arguments)])
    token = new_token()
    made = _webhook(arguments, token)
    _write_tokens(arguments, [token, *tokens])
    say(f"{arguments.name}: old and new token are valid. Apply the Secret, wait until `clusters check` accepts both,")
    say("then apply the webhook configuration, then `clusters rotate --finish`")
    return _give(arguments, [_secret(arguments), made])


def _show(arguments: argparse.Namespace) -> int:
    """Print what `add` printed, with the newest token."""
    if not arguments.name:
        return _give(arguments, [_webhook(arguments, "")])
    token = _known_tokens(arguments)[0]
    return _give(arguments, [_secret(arguments), _webhook(arguments, token)])


def _remove(arguments: argparse.Namespace) -> int:
    """Forget a cluster."""
    _known_tokens(arguments)
    _refuse_mounted(arguments)
    os.unlink(os.path.join(arguments.dir, arguments.name))
    return _give(arguments, [_secret(arguments)])


def _list(arguments: argparse.Namespace) -> int:
    """Print each cluster, how many tokens it has, and when they changed."""
    found = []
    for name, tokens in _tokens(arguments).items():
        changed = dt.datetime.fromtimestamp(os.stat(os.path.join(arguments.dir, name)).st_mtime, dt.UTC)
        found.append((name, len(tokens), changed))
    if arguments.output == "json":
        clusters = [{"name": name, "tokens": count, "changed": f"{at:%Y-%m-%dT%H:%M:%SZ}"} for name, count, at in found]
        sys.stdout.write(json.dumps(clusters, indent=2) + "\n")
        return 0
    rows = [(name, str(count), f"{at:%Y-%m-%d %H:%M}") for name, count, at in found]
    write_table([("NAME", "TOKENS", "CHANGED"), *rows], right=[1])
    if not found:
        say(f"{arguments.dir} holds no clusters (hint: `clusters add NAME` makes the first, --dir names the directory)")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """Post a synthetic review with each token of the cluster, or to the single cluster's route."""
    tokens = _known_tokens(arguments) if arguments.name else [""]
    urls = [webhook.review_url(arguments.url, arguments.name, token) for token in tokens]
    found = check(urls, cluster=arguments.name, ca_file=arguments.ca_file, journal=arguments.journal)
    if arguments.output == "json":
        steps = [{"check": what, "result": text} for what, text in found.lines]
        sys.stdout.write(json.dumps({"well": found.well, "steps": steps}, indent=2) + "\n")
    else:
        for what, text in found.lines:
            sys.stdout.write(f"{what:9} {text}\n")
    return 0 if found.well else 1


# -- documents ----------------------------------------------------------------------------------------------------


def _webhook(arguments: argparse.Namespace, token: str) -> Document:
    to = _service(arguments.service) if arguments.service else arguments.url
    if not to:
        raise WebhookError("say where the endpoint is: --url https://HOST or --service NAMESPACE/NAME")
    text = webhook.configuration(
        to,
        cluster=arguments.name,
        token=token,
        ca=_ca(arguments),
        failure_policy=arguments.failure_policy,
        timeout_seconds=arguments.timeout,
        excluded=[] if arguments.remote else arguments.exclude_namespace,
    )
    blind = [] if arguments.remote else arguments.exclude_namespace or webhook.excluded_by_default()
    say(f"namespaces that are not audited: {', '.join(blind) or 'none'}")
    if arguments.failure_policy == "Fail":
        say("with Fail nothing can be changed there while the endpoint is down: docs/multi-cluster.md says what helps")
    where = f"cluster {arguments.name}" if arguments.name else "the audited cluster"
    return Document(f"webhook-{arguments.name}.yaml" if arguments.name else "webhook.yaml", where, text)


def _secret(arguments: argparse.Namespace) -> Document:
    namespace, name = _pair(arguments.secret, "--secret")
    return Document("secret.yaml", "the endpoint's cluster", _HEADER + secret(_tokens(arguments), namespace, name))


def _give(arguments: argparse.Namespace, documents: list[Document]) -> int:
    """Print the documents, or write them where nobody else can read them."""
    if not arguments.output_dir:
        sys.stdout.write("---\n".join(f"# Apply this in {one.where}.\n{one.text}" for one in documents))
        return 0
    os.makedirs(arguments.output_dir, mode=0o700, exist_ok=True)
    for one in documents:
        path = os.path.join(arguments.output_dir, one.file)
        write_private(path, one.text)
        say(f"{path}: apply it in {one.where}")
    return 0


def _ca(arguments: argparse.Namespace) -> bytes:
    if arguments.ca_file:
        with open(arguments.ca_file, "rb") as file:
            return file.read()
    if not arguments.ca_from_endpoint:
        return b""
    if not arguments.url:
        raise WebhookError("--ca-from-endpoint needs --url; for a Service name the file with --ca-file")
    return _presented(arguments.url)


def _presented(url: str) -> bytes:
    """Return the certificate that the endpoint presents now, unverified: whoever answers is believed."""
    host, port = _address(webhook.review_url(url))
    try:
        pem = ssl.get_server_certificate((host, port), timeout=10).encode()
    except ssl.SSLError as error:
        raise WebhookError(f"{host}:{port}: no TLS version in common: {error.reason}") from None
    except UnicodeError:
        raise WebhookError(f"{host}:{port}: no name of a host") from None
    say(f"trusting what {host}:{port} presented now; compare it, and make this again when that certificate changes")
    return pem


def _address(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.hostname or "", parts.port or 443


def _service(text: str) -> ServiceReference:
    text, _, port = text.partition(":")
    if port and not re.fullmatch("[0-9]{1,5}", port):
        raise WebhookError("--service is NAMESPACE/NAME or NAMESPACE/NAME:PORT")
    return ServiceReference(*_pair(text, "--service"), int(port or 443))


def _pair(text: str, option: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not SUBDOMAIN.fullmatch(namespace) or not SUBDOMAIN.fullmatch(name):
        raise WebhookError(f"{option} is NAMESPACE/NAME")
    return namespace, name


# -- the directory ------------------------------------------------------------------------------------------------


def _tokens(arguments: argparse.Namespace) -> dict[str, list[str]]:
    return tokens_in(arguments.dir)


def _known_tokens(arguments: argparse.Namespace) -> list[str]:
    tokens = _tokens(arguments).get(arguments.name)
    if tokens is None:
        raise ClustersError(f"{arguments.dir} holds no cluster {arguments.name}: `clusters list` shows those it has")
    return tokens


def _refuse_mounted(arguments: argparse.Namespace) -> None:
    if os.path.lexists(os.path.join(arguments.dir, "..data")):
        raise ClustersError(f"{arguments.dir} is a mounted volume: name the directory that the Secret is made from")


def _write_tokens(arguments: argparse.Namespace, tokens: list[str]) -> None:
    _refuse_mounted(arguments)
    write_tokens(arguments.dir, arguments.name, tokens)


# -- the command line ---------------------------------------------------------------------------------------------


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} clusters",
        description="Make tokens, Secret and webhook configurations of the clusters that one endpoint serves.",
        examples=EXAMPLES,
        notes="docs/multi-cluster.md has the whole procedure.",
    )
    verbs = made.add_subparsers(metavar="COMMAND", required=True)

    def verb(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        examples = "\n".join(line for line in EXAMPLES.splitlines() if f"clusters {name}" in line)
        added = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", examples=examples)
        added.set_defaults(command=command)
        default = os.environ.get("AUDIT_CLUSTERS_DIR") or "clusters"
        added.add_argument("--dir", default=default, help="where the tokens are, a file a cluster (%(default)s)")
        return added

    add = verb("add", _add, "make a cluster's token; print the Secret for the endpoint and the cluster's webhook")
    rotate = verb("rotate", _rotate, "make a new token beside the old one, and print both documents again")
    show = verb("show", _show, "print both documents again, with the newest token")
    remove = verb("remove", _remove, "forget a cluster, and print the Secret without it")
    list_verb = verb("list", _list, "list the clusters; no token is shown")
    check_verb = verb("check", _check, "post a synthetic review through the real URL and say what came back")

    for one in (list_verb, check_verb):
        one.add_argument("-o", "--output", choices=["table", "json"], default="table")
    for one in (rotate, remove):
        one.add_argument("name", metavar="NAME")
    for one in (add, show, check_verb):
        one.add_argument("name", metavar="NAME", nargs="?", default="", help="none: the single cluster, without token")
    for one in (add, rotate, show):
        _add_webhook_options(one)
    for one in (add, rotate, show, remove):
        one.add_argument("--secret", metavar="NAMESPACE/NAME", default="/".join(SECRET),
                         help="the Secret that the endpoint mounts (%(default)s)")  # fmt: skip
        one.add_argument("--output-dir", metavar="DIR", help="write files there instead of printing")
    rotate.add_argument("--finish", action="store_true", help="keep the newest token alone, and print the Secret")
    check_verb.add_argument("--url", required=True, help="the endpoint, as https://audit.example.com")
    check_verb.add_argument("--ca-file", help="trust these certificates instead of the system's")
    check_verb.add_argument("--journal", metavar="DIR", help="look for the record in this AUDIT_JOURNAL_DIR as well")
    return made


def _add_webhook_options(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default="", help="the endpoint, as https://audit.example.com")
    where.add_argument("--service", metavar="NAMESPACE/NAME[:PORT]", default="",
                       help="a Service of the audited cluster instead")  # fmt: skip
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca-file", help="what the API server is to trust, PEM (else what its system trusts)")
    trust.add_argument("--ca-from-endpoint", action="store_true", help="trust the certificate presented now, as it is")
    parser.add_argument("--failure-policy", choices=webhook.Failure, default="Ignore")
    parser.add_argument("--timeout", type=int, metavar="SECONDS", default=1, help="1 to 30 (%(default)s)")
    blind = parser.add_mutually_exclusive_group()
    blind.add_argument("--exclude-namespace", metavar="NAMESPACE", action="append",
                       help="leave this one out, instead of those that the audit runs on; may be repeated")  # fmt: skip
    blind.add_argument("--remote", action="store_true", help="nothing of the audit runs there: leave no namespace out")


def _refused(problem: str) -> int:
    say(problem)
    return 1
