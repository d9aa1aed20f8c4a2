"""How the API server is asked: from a pod with a service account's token, or through kubectl."""

from __future__ import annotations

import json
from typing import Any, Protocol

from ...watching.api_server import Answer, ApiServer, Unreachable
from ...watching.objects import readable

__all__ = ["Api", "CannotAskError", "ForbiddenError", "FromPod", "NotThereError", "RefusedError", "decoded"]


class CannotAskError(Exception):
    """There is no answer, or a refusal. The text says why."""


class RefusedError(CannotAskError):
    """The API server answered, and did not do it."""


class NotThereError(RefusedError):
    """There is no such object."""


class ForbiddenError(RefusedError):
    """Whoever asks may not."""


class Api(Protocol):
    """What the checks need of an API server. Both raise `CannotAskError`."""

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of an API path."""

    def post(self, path: str, body: object, **query: str) -> Any:
        """Return the JSON of the answer."""


class FromPod:
    """Asks with the token that `watch` has."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of an API path."""
        try:
            return _json(self._server.get(path, **query))
        except Unreachable as error:
            raise CannotAskError(str(error)) from None

    def post(self, path: str, body: object, **query: str) -> Any:
        """Return the JSON of the answer."""
        try:
            return _json(self._server.post(path, body, **query))
        except Unreachable as error:
            raise CannotAskError(str(error)) from None


_BY_STATUS = {401: ForbiddenError, 403: ForbiddenError, 404: NotThereError}


def _json(answer: Answer) -> Any:
    if answer.status not in (200, 201):
        raise _BY_STATUS.get(answer.status, RefusedError)(str(answer))
    try:
        return decoded(answer.body)
    except ValueError:
        raise CannotAskError("its answer is no JSON") from None


def decoded(text: bytes) -> Any:
    """Return the JSON, however deep or far from Unicode somebody has made it. Raises `ValueError`."""
    return json.loads(readable(text))
