"""The ValidatingWebhookConfiguration that users apply, made from the one template (pure, but for reading it).

``webhook.yaml`` beside this file is ``deploy/webhook.yaml``, byte for byte (a test compares): what is shipped, what is
generated and what is tested are the same text, comments included.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
import re
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "RECORD_PATH",
    "Failure",
    "ServiceReference",
    "WebhookError",
    "configuration",
    "excluded_by_default",
    "review_url",
    "template",
]

RECORD_PATH = "/log-request"
Failure = ("Ignore", "Fail")
TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_MAX = 1, 30
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_HEADER = """\
# {what}
# Made by `python -m function clusters`.{visible}
#
# A writer to this object is out of the audit's sight: API servers call no webhook for webhook configurations.
# Give nobody who is audited the right to change it.
"""
_VISIBLE = """
# The URL holds a token: whoever may read this object can write records in this cluster's name, and read none.
# docs/multi-cluster.md says what follows from that."""
_EXCLUDED = r"values: \[(kube-audit-function, .*)\]\n"
_EVERYWHERE = "    # Nothing of the audit runs in this cluster, so every namespace is audited."


class WebhookError(ValueError):
    """What was asked for makes no valid configuration. The text never holds a token."""


class ServiceReference(NamedTuple):
    """A Service in the audited cluster: what ``clientConfig.service`` names."""

    namespace: str
    name: str
    port: int = 443


def template() -> str:
    """Return the text that every configuration is made from."""
    return importlib.resources.files(__package__).joinpath("webhook.yaml").read_text("utf-8")


def excluded_by_default() -> list[str]:
    """Return the namespaces that the template leaves out: those that the audit itself runs on."""
    match = re.search(_EXCLUDED, template())
    return match[1].split(", ") if match else []


def review_url(base: str, cluster: str = "", token: str = "") -> str:
    """Return where the reviews of ``cluster`` go (of the single cluster: no name, no token), below ``base``.

    ``base`` may have a path of its own, as behind an OpenFaaS gateway. Raises `WebhookError` for a URL that no webhook
    may have: another scheme than https, a user, a query, a fragment.
    """
    try:
        parts = urllib.parse.urlsplit(base)
        port = parts.port
    except ValueError:
        raise WebhookError("--url is no URL: write https://audit.example.com") from None
    if parts.scheme != "https" or not parts.hostname:
        raise WebhookError("--url must begin with https:// and name a host: API servers call nothing else")
    if port == 0:
        raise WebhookError("--url: port 0 is no port")
    if parts.username is not None or parts.query or parts.fragment:
        raise WebhookError("--url must hold no user, query or fragment: API servers refuse such a webhook")
    if re.search(r"[^!-~]|[\"'\\]", base):
        raise WebhookError("--url holds a character that no URL may have")
    path = parts.path.rstrip("/").removesuffix(RECORD_PATH)
    return f"https://{parts.netloc}{path}{review_path(cluster, token)}"


def review_path(cluster: str, token: str) -> str:
    """Return the path of the cluster's reviews."""
    return f"{RECORD_PATH}/{cluster}/{token}" if cluster else RECORD_PATH


def configuration(
    to: str | ServiceReference,
    *,
    cluster: str = "",
    token: str = "",
    ca: bytes = b"",
    failure_policy: str = "Ignore",
    timeout_seconds: int = 1,
    excluded: Sequence[str] | None = None,
) -> str:
    """Return the configuration as YAML.

    ``to`` is the endpoint's address (as for `review_url`) or a `ServiceReference`; ``ca`` the PEM certificates that the
    API server is to trust, empty for those that its system trusts; ``excluded`` the namespaces that are not audited:
    None for the template's, empty for none. Raises `WebhookError`.
    """
    if failure_policy not in Failure:
        raise WebhookError(f"the failure policy is one of {', '.join(Failure)}")
    if not TIMEOUT_SECONDS_MIN <= timeout_seconds <= TIMEOUT_SECONDS_MAX:
        raise WebhookError(f"the timeout is {TIMEOUT_SECONDS_MIN} to {TIMEOUT_SECONDS_MAX} seconds")
    whole = template()
    body = whole[whole.index("apiVersion: ") :]
    body = _replace(body, r"      url: WEBHOOK_URL\n      caBundle: CABUNDLE\n", _client(to, cluster, token, ca))
    body = _replace(body, r"    failurePolicy: Ignore\n", f"    failurePolicy: {failure_policy}\n")
    body = _replace(body, r"    timeoutSeconds: 1\n", f"    timeoutSeconds: {timeout_seconds}\n")
    what = f"Sends the reviews of cluster {cluster} to its audit." if cluster else "Sends the reviews to the audit."
    return _HEADER.format(what=what, visible=_VISIBLE if token else "") + _exclude(body, excluded)


def _client(to: str | ServiceReference, cluster: str, token: str, ca: bytes) -> str:
    lines = []
    if isinstance(to, ServiceReference):
        for part in (to.namespace, to.name):
            if not _DNS_LABEL.fullmatch(part):
                raise WebhookError("--service is NAMESPACE/NAME: lower-case letters, digits and '-'")
        path = review_path(cluster, token)
        namespace, name = json.dumps(to.namespace), json.dumps(to.name)
        lines.append(f"service: {{namespace: {namespace}, name: {name}, port: {to.port}, path: {path}}}")
    else:
        lines.append(f"url: {json.dumps(review_url(to, cluster, token))}")
    if ca:
        if not re.search(rb"-----BEGIN CERTIFICATE-----.+-----END CERTIFICATE-----", ca, re.DOTALL):
            raise WebhookError("the CA file holds no certificate in PEM format")
        if b"PRIVATE KEY" in ca:
            raise WebhookError("the CA file holds a private key, which must stay secret: give the certificate alone")
        lines.append(f"caBundle: {base64.b64encode(ca).decode()}")
    return "".join(f"      {line}\n" for line in lines)


def _exclude(body: str, excluded: Sequence[str] | None) -> str:
    if excluded is None:
        return body
    for namespace in excluded:
        if not _DNS_LABEL.fullmatch(namespace):
            raise WebhookError(f"{namespace!r} is no namespace's name")
    if not excluded:
        return _replace(body, r"(    # .*\n)+    namespaceSelector:\n(      .*\n)+", _EVERYWHERE + "\n")
    return _replace(body, _EXCLUDED, f"values: {json.dumps(list(excluded))}\n")


def _replace(text: str, pattern: str, replacement: str) -> str:
    """Replace what the template has exactly once."""
    replaced, count = re.subn(pattern, lambda _: replacement, text)
    if count != 1:
        raise WebhookError(f"the template does not have exactly one {pattern!r}")
    return replaced
