"""The same checks in each pod of the function, through `kubectl exec`."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from ...doctor.finding import Finding, Result, fail, skip
from .api import CannotAskError
from .kubectl import Kubectl

__all__ = ["check_pods", "finders"]

DOCTOR = ("python", "-m", "function", "doctor")
_LABELS = "name them: --namespace, --selector, --container"


def check_pods(kubectl: Kubectl, options: argparse.Namespace, configurations: str) -> Iterator[Finding]:
    """Yield what `doctor` finds in each pod, held against these webhook configurations (JSON, or nothing)."""
    try:
        names = _pods(kubectl, options)
    except CannotAskError as error:
        yield skip("pods", f"cannot be listed: {error}", "use an account that may list pods (--as, --context)")
        return
    if not names:
        text = f"none in namespace {options.namespace} has the labels {options.selector}"
        yield skip("pods", text, f"{_LABELS}; where the function runs elsewhere, run doctor there")
    for name in names:
        for finding in _in_pod(kubectl, options, name, configurations):
            yield finding._replace(where=f"pod/{name}")


def finders(kubectl: Kubectl, options: argparse.Namespace) -> Mapping[str, Any]:
    """Return, for each pod, what says whether a canary is in its journal."""
    try:
        names = _pods(kubectl, options)
    except CannotAskError:
        return {}
    return {f"pod/{name}": functools.partial(_is_recorded, kubectl, options, name) for name in names}


def _pods(kubectl: Kubectl, options: argparse.Namespace) -> list[str]:
    found = kubectl.get(f"/api/v1/namespaces/{options.namespace}/pods", labelSelector=options.selector)
    running = [one for one in found.get("items") or [] if (one.get("status") or {}).get("phase") == "Running"]
    return sorted(one["metadata"]["name"] for one in running)


def _in_pod(kubectl: Kubectl, options: argparse.Namespace, name: str, configurations: str) -> Iterator[Finding]:
    left_out = {"webhook", "canary", *options.skip}  # those of the cluster are made once, outside
    command = [*DOCTOR, "-o", "json", *(part for check in sorted(left_out) for part in ("--skip", check))]
    command += ["--webhook", "-"] if configurations else []
    try:
        printed = kubectl.run_in_pod(options.namespace, name, options.container, command, configurations)
        found = _objects(json.loads(printed))
    except CannotAskError as error:
        yield fail("pods", f"doctor cannot be run there: {error}", f"{_LABELS}; it takes the right to exec")
    except ValueError:
        yield fail("pods", "what it printed there is not what doctor prints", "is it the same version?")
    else:
        for one in found:
            if one.get("where") != "cluster" and one.get("result") in get_args(Result):
                yield Finding(
                    cast("Result", one["result"]), one.get("check", ""), one.get("text", ""), one.get("hint", "")
                )


def _objects(printed: object) -> list[dict[str, str]]:
    if not isinstance(printed, list) or not all(isinstance(one, dict) for one in printed):
        raise ValueError
    return printed


def _is_recorded(kubectl: Kubectl, options: argparse.Namespace, pod: str, name: str) -> bool:
    command = [*DOCTOR, "--recorded", name]
    return kubectl.run_in_pod(options.namespace, pod, options.container, command).strip() == "yes"
