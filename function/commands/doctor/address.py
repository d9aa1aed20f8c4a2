"""The address that the API server calls, called from here: its name, its port, its certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from ...doctor import certificate
from ...doctor.finding import Finding, fail, ok, skip, warn
from ...doctor.webhook import server_name
from ...watching.in_force import Client, bundle

__all__ = ["reached"]

RESOLVE_SECONDS = 3.0
CONNECT_SECONDS = 5.0
_ELSEWHERE = "the API server calls from its own network: try this there, or let a canary say (--kubectl)"


def reached(client: Client) -> Iterator[Finding]:
    """Yield whether a TLS client that trusts the webhook's caBundle is content with who answers."""
    name, port = server_name(client), _port(client)
    ca = certificate.pem(bundle(client.caBundle))
    try:
        context = certificate.authority_context(ca or None)
    except ssl.SSLError:
        yield skip("address", "the webhook's caBundle holds what is no certificate", "put the issuing CA there, as PEM")
        return
    try:
        raw = _connected(name, port)
    except OSError as error:
        yield _not_connected(client, f"{name}:{port}", error)
        return
    with contextlib.closing(raw):
        try:
            with context.wrap_socket(raw, server_hostname=name):
                yield ok("address", f"{name}:{port} answers with a certificate that the webhook trusts")
        except ssl.SSLCertVerificationError as error:
            hint = "the API server refuses it too: compare its names, its dates and the webhook's caBundle"
            yield fail("address", f"{name}:{port}: its certificate is refused: {error.verify_message}", hint)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
            yield fail(
                "address",
                f"{name}:{port} does not speak TLS: {reason}",
                "is it the port of the function, or of its ingress?",
            )


def _connected(name: str, port: int) -> socket.socket:
    """Return a connection. Raises `OSError`, in a bounded time: where no packet may leave, resolving takes minutes."""
    addresses: list[str] = []
    failures: list[OSError] = []

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            addresses.extend(dict.fromkeys(str(one[4][0]) for one in found))
        except OSError as error:
            failures.append(error)
        except UnicodeError:
            failures.append(socket.gaierror(socket.EAI_NONAME, "no name"))

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    if not addresses:
        raise failures[0] if failures else socket.gaierror(socket.EAI_AGAIN, "no answer in time")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=CONNECT_SECONDS)
        except OSError as error:
            failures.append(error)
    raise failures[-1]


def _not_connected(client: Client, address: str, error: OSError) -> Finding:
    if client.service:
        hint = "the pod may call nobody (network-policy.yaml): the service line and the canary say the rest"
        return skip("address", f"{address} cannot be called from here", hint)
    if isinstance(error, socket.gaierror):
        return warn("address", f"{address} is no name that resolves here", _ELSEWHERE)
    if isinstance(error, ConnectionRefusedError):
        return fail("address", f"{address}: nobody listens", "start the function, or correct the webhook's URL")
    return warn(
        "address", f"{address} cannot be reached from here: {error.strerror or 'no answer in time'}", _ELSEWHERE
    )


def _port(client: Client) -> int:
    if client.service:
        return client.service.port
    with contextlib.suppress(ValueError):
        return urlsplit(client.url).port or 443
    return 443
