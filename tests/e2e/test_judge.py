"""The judge itself: what the native log does not prove must not be asked of the journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import native_log

USER = {"username": "somebody"}


def test_what_a_deletecollection_came_too_late_for_is_not_asked_for(tmp_path: Path) -> None:
    """Somebody else deleted `raced` meanwhile, and `earlier` before it began; `alone` was its own."""
    log = tmp_path / "audit.log"
    events = [
        _event("1", "delete", "earlier", began="00.100000", ended="00.200000"),
        _event("2", "deletecollection", "", began="00.300000", ended="00.900000", items=["raced", "earlier", "alone"]),
        _event("3", "delete", "raced", began="00.400000", ended="00.500000"),
    ]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    seen = {(one.audit_id, one.act.name): one.must for one in native_log.read(log)}
    assert seen == {
        ("1", "earlier"): True,
        ("2", "raced"): False,
        ("2", "earlier"): True,
        ("2", "alone"): True,
        ("3", "raced"): True,
    }


def _event(audit_id: str, verb: str, name: str, *, began: str, ended: str, items: list[str] | None = None) -> Any:
    return {
        "auditID": audit_id,
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/shop/secrets",
        "verb": verb,
        "user": USER,
        "objectRef": {"resource": "secrets", "namespace": "shop", "name": name, "apiVersion": "v1"},
        "responseStatus": {"code": 200},
        "responseObject": {"items": [{"metadata": {"name": item}} for item in items or []]},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{began}Z",
        "stageTimestamp": f"2026-01-01T00:00:{ended}Z",
    }
