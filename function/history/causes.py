"""What the API server itself makes of a change: expected states, and every lawful way to differ from them (pure).

Checked against kubernetes 1.36: registry/generic/registry/store.go, registry/rest/delete.go, the pod's storage
(binding, eviction), the namespace's, the Service's and the CustomResourceDefinition's. A validating webhook sees an
update exactly as it is stored: only its resourceVersion is new. What removes a Service, be it the update that takes its
last finalizer, also deletes the Endpoints of its name, whoever made them, and asks no webhook about that.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from .change import REMOVALS, Action, Change
from .differences import Difference, Path
from .values import Missing, Unreadable, decode, same

__all__ = [
    "agrees",
    "area",
    "counted",
    "deleted",
    "expected",
    "explained",
    "is_default",
    "is_filled_in",
    "is_gone_with",
    "is_off",
    "unversioned",
]

CRD = "CustomResourceDefinition"
_GARBAGE_COLLECTION = frozenset(["orphan", "foregroundDeletion"])
_FINALIZERS_OF_DELETION = _GARBAGE_COLLECTION | {"customresourcecleanup.apiextensions.k8s.io"}

# Clocks differ, and a review may wait for others before it is stored.
OFF_SECONDS = 60

_COUNTED = ("resourceVersion", "selfLink")


def area(difference: Difference) -> str:
    """Return what a difference is about: ``content``, ``status``, ``managedFields``, or nothing (empty)."""
    path = difference.path
    if path[:1] == ("status",):
        return "status"
    if path[:1] == ("metadata",) and len(path) > 1:
        if path[1] == "managedFields":
            return "managedFields"
        if path[1] in _COUNTED:
            return ""
    return "content"


# -- what a change makes of an object ---------------------------------------------------------------------------------


def expected(change: Change, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the object that the change makes of ``before``, None where it is gone then.

    A deletion that something holds up (a finalizer, a pod's grace period) leaves the object with a deletionTimestamp,
    worked out here, the server's own may be a second later. Raises `Unreadable` where the records do not tell.
    """
    if change.action in (Action.CREATE, Action.REPLACE):
        after = change.new.value()
        return None if before is not None and is_gone_with(after, before) else after
    if before is None:
        raise Unreadable("the object as it was before is not in the records")
    if change.action in REMOVALS:
        return deleted(before, change.options(), change.received_ns)
    return _scaled(change, before) if change.action is Action.SCALE else _bound(change, before)


def is_gone_with(after: dict[str, Any], before: dict[str, Any]) -> bool:
    """Return whether an update removes the object: it was being deleted, and this was its last finalizer."""
    metadata, old = _fields(after, "metadata"), _fields(before, "metadata")
    if _finalizers_of(metadata) or not old.get("deletionTimestamp") or old.get("deletionGracePeriodSeconds"):
        return False
    return not (after.get("kind") == "Namespace" and _fields(after, "spec").get("finalizers"))


def deleted(before: dict[str, Any], options: dict[str, Any], now_ns: int) -> dict[str, Any] | None:
    """Return what a DELETE leaves of an object: nothing (None), or the object that waits to be deleted."""
    kind, metadata = before.get("kind"), _fields(before, "metadata")
    is_pending = bool(metadata.get("deletionTimestamp"))
    finalizers = _finalizers(_finalizers_of(metadata), options)
    grace = 0
    if kind == CRD and not is_pending:
        finalizers += _FINALIZERS_OF_DELETION.difference(_GARBAGE_COLLECTION, finalizers)
    if kind == "Pod":
        grace = _grace_seconds(before, options)
    held = bool(finalizers) or grace > 0
    if kind == "Namespace":
        held = held or not is_pending or bool(_fields(before, "spec").get("finalizers"))
    if not held:
        return None
    if is_pending:
        return _being_deleted_sooner(before, finalizers, grace, now_ns)
    return _being_deleted(before, finalizers, grace, now_ns)


def _being_deleted(before: dict[str, Any], finalizers: list[str], grace: int, now_ns: int) -> dict[str, Any]:
    kind, metadata = before.get("kind"), dict(_fields(before, "metadata"))
    metadata["deletionTimestamp"] = _timestamp(now_ns // 10**9 + grace)
    after = _with_finalizers(before, metadata, finalizers)
    if kind == "Namespace":
        after["status"] = {**_fields(before, "status"), "phase": "Terminating"}
    elif kind != CRD:
        metadata["deletionGracePeriodSeconds"] = grace
        if isinstance(generation := metadata.get("generation"), int):
            metadata["generation"] = generation + 1
    return after


def _being_deleted_sooner(before: dict[str, Any], finalizers: list[str], grace: int, now_ns: int) -> dict[str, Any]:
    metadata = dict(_fields(before, "metadata"))
    pending = _seconds(metadata.get("deletionGracePeriodSeconds"))
    if before.get("kind") == "Pod" and pending:
        if grace >= pending:
            return before
        at = int(dt.datetime.fromisoformat(metadata["deletionTimestamp"]).timestamp()) - pending + grace
        metadata["deletionTimestamp"] = _timestamp(max(at, now_ns // 10**9))
        metadata["deletionGracePeriodSeconds"] = grace
    return _with_finalizers(before, metadata, finalizers)


def _with_finalizers(before: dict[str, Any], metadata: dict[str, Any], finalizers: list[str]) -> dict[str, Any]:
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    return {**before, "metadata": metadata}


def _timestamp(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _finalizers_of(metadata: dict[str, Any]) -> list[str]:
    finalizers = metadata.get("finalizers")
    if _are_unknown(finalizers):
        raise Unreadable("the finalizers are not in the records")
    return [str(one) for one in finalizers] if isinstance(finalizers, list) else []


def _are_unknown(finalizers: Any) -> bool:
    return finalizers is Missing.UNKNOWN or (isinstance(finalizers, list) and Missing.UNKNOWN in finalizers)


def _finalizers(present: list[str], options: dict[str, Any]) -> list[str]:
    policy, orphan = options.get("propagationPolicy"), options.get("orphanDependents")
    if policy is None and orphan is None:
        return list(present)
    kept = [one for one in present if one not in _GARBAGE_COLLECTION]
    if policy == "Orphan" or orphan:
        kept.append("orphan")
    if policy == "Foreground" or orphan is False:
        kept.append("foregroundDeletion")
    return kept


def _grace_seconds(pod: dict[str, Any], options: dict[str, Any]) -> int:
    spec, metadata = _fields(pod, "spec"), _fields(pod, "metadata")
    if not spec.get("nodeName") or _fields(pod, "status").get("phase") in ("Succeeded", "Failed"):
        return 0
    asked, pending = options.get("gracePeriodSeconds"), metadata.get("deletionGracePeriodSeconds")
    if metadata.get("deletionTimestamp"):
        return min(_seconds(pending), _seconds(asked if asked is not None else pending))
    return _seconds(asked if asked is not None else spec.get("terminationGracePeriodSeconds"))


def _seconds(value: Any) -> int:
    return (value if value >= 0 else 1) if isinstance(value, int) else 0


def _scaled(change: Change, before: dict[str, Any]) -> dict[str, Any]:
    spec, metadata = dict(_fields(before, "spec")), dict(_fields(before, "metadata"))
    replicas = _replicas(change.new.value())
    if spec.get("replicas", 0) != replicas and isinstance(generation := metadata.get("generation"), int):
        metadata["generation"] = generation + 1
    spec["replicas"] = replicas
    return {**before, "metadata": metadata, "spec": spec}


def _bound(change: Change, before: dict[str, Any]) -> dict[str, Any]:
    binding = change.new.value()
    metadata = dict(_fields(before, "metadata"))
    for name in ("labels", "annotations"):
        if added := _fields(_fields(binding, "metadata"), name):
            metadata[name] = {**_fields(metadata, name), **added}
    node = _fields(binding, "target").get("name", "")
    return {**before, "metadata": metadata, "spec": {**_fields(before, "spec"), "nodeName": node}}


def agrees(scale: Change, before: dict[str, Any]) -> bool:
    """Return whether a Scale can have been read from an object. Raises `Unreadable`.

    Custom resources may have the number anywhere.
    """
    replicas = _fields(before, "spec").get("replicas")
    old = decode(scale.record.old_object)
    return replicas is None or not isinstance(old, dict) or same(replicas, _replicas(old))


def _replicas(scale: dict[str, Any]) -> Any:
    return _fields(scale, "spec").get("replicas", 0)


# -- what is lawful beyond the expected -------------------------------------------------------------------------------


def explained(
    change: Change, found: Sequence[Difference], before: dict[str, Any], after: dict[str, Any]
) -> list[Difference] | None:
    """Return those of the differences between ``before`` and ``after`` that the change does not explain.

    None where the change cannot have happened. For changes whose review does not hold the object: SCALE, BIND, EVICT,
    DELETE, WITH_SERVICE. Raises `Unreadable`.
    """
    lawful = _LAWFUL[change.action](change, found, before, after)
    return None if lawful is None else [difference for difference in found if not lawful(difference)]


_Lawful = Callable[[Difference], bool] | None


# Why an object is deleted: an evicted pod's and a definition's conditions.
_TOLD_IN_STATUS = {"Namespace": "phase", "Pod": "conditions", CRD: "conditions"}


def _of_deletion(change: Change, found: Sequence[Difference], before: dict[str, Any], after: dict[str, Any]) -> _Lawful:
    old, new = _fields(before, "metadata"), _fields(after, "metadata")
    options = change.options()
    wanted = deleted(before, options, change.received_ns)
    if options and wanted is before:  # it was being deleted already
        return None
    if change.action is Action.WITH_SERVICE and is_off(change, before, after):
        return None
    fields = {"deletionTimestamp", "deletionGracePeriodSeconds"}
    if _are_finalizers_lawful(old, new, _fields(wanted, "metadata") if wanted else {}, options):
        fields.add("finalizers")
    touched = {one.path[1] for one in found if one.path[:1] == ("metadata",) and len(one.path) > 1}
    if not new.get("deletionTimestamp") or not (touched & fields or _are_unknown(new.get("finalizers"))):
        return None
    kind = before.get("kind")
    status = "" if kind == "Pod" and change.action is Action.DELETE else _TOLD_IN_STATUS.get(str(kind), "")

    def lawful(difference: Difference) -> bool:
        path = difference.path
        if path[:1] == ("status",):
            return bool(status) and path[1:2] in ((), (status,))
        if path[:1] != ("metadata",) or len(path) < 2:
            return False
        return path[1] in fields

    return lawful


def is_off(change: Change, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether an object began to be deleted at quite another time than when the change asked for it."""
    if change.action not in REMOVALS or _fields(before, "metadata").get("deletionTimestamp"):
        return False
    metadata = _fields(after, "metadata")
    try:
        at = dt.datetime.fromisoformat(str(metadata.get("deletionTimestamp"))).timestamp()
    except ValueError:
        return False
    asked = change.received_ns / 10**9 + _seconds(metadata.get("deletionGracePeriodSeconds"))
    return abs(at - asked) > OFF_SECONDS


def _are_finalizers_lawful(
    old: dict[str, Any], new: dict[str, Any], wanted: dict[str, Any], options: dict[str, Any]
) -> bool:
    try:
        before, after, expected = (set(_finalizers_of(one)) for one in (old, new, wanted))
    except Unreadable:
        return True
    if after == expected:
        return True
    # Without a policy it is the type's own, and options are not always recorded.
    is_free = "propagationPolicy" not in options and "orphanDependents" not in options
    return is_free and before ^ after <= _FINALIZERS_OF_DELETION


def _of_scale(change: Change, found: Sequence[Difference], before: dict[str, Any], after: dict[str, Any]) -> _Lawful:
    wanted = _replicas(change.new.value())
    # A CustomResourceDefinition names the field itself (specReplicasPath): the one that has the number asked for.
    path: Path = ("spec", "replicas")
    if "replicas" not in _fields(before, "spec"):
        numbers = [one.path for one in found if one.path[:1] == ("spec",) and same(one.new, wanted)]
        path = numbers[0] if len(numbers) == 1 else path
    is_hidden = _fields(after, "spec").get("replicas") is Missing.UNKNOWN
    if not is_hidden and not any(one.path == path for one in found):
        return None

    def lawful(difference: Difference) -> bool:
        if difference.path == path:
            return same(0 if difference.new is Missing.ABSENT else difference.new, wanted)
        return area(difference) == "managedFields"

    return lawful


_TOLD_BY_BINDING = ((), ("conditions",), ("nominatedNodeName",))


def _of_binding(change: Change, found: Sequence[Difference], before: dict[str, Any], after: dict[str, Any]) -> _Lawful:
    del before, after
    binding = change.new.value()
    wanted = _fields(binding, "target").get("name")
    if not any(one.path == ("spec", "nodeName") and one.new == wanted for one in found):
        return None
    added = {name: _fields(_fields(binding, "metadata"), name) for name in ("labels", "annotations")}

    def lawful(difference: Difference) -> bool:
        path = difference.path
        if path == ("spec", "nodeName") or (path[:1] == ("status",) and path[1:2] in _TOLD_BY_BINDING):
            return True
        if path[:1] == ("metadata",) and len(path) > 1 and path[1] in added:
            wanted = added[str(path[1])]
            return same(difference.new, wanted if len(path) == 2 else wanted.get(str(path[2])), lenient=True)
        return False

    return lawful


_LAWFUL: dict[Action, Callable[[Change, Sequence[Difference], dict[str, Any], dict[str, Any]], _Lawful]] = {
    Action.DELETE: _of_deletion,
    Action.WITH_SERVICE: _of_deletion,
    Action.EVICT: _of_deletion,
    Action.SCALE: _of_scale,
    Action.BIND: _of_binding,
}


def counted(found: Sequence[Difference], changes: Sequence[Change], before: dict[str, Any]) -> list[Difference]:
    """Return the differences without the generation's, where so many such changes can have made it grow so far."""
    most = sum(_GROWS[one.action] for one in changes if one.action in _GROWS)
    if _fields(before, "metadata").get("deletionTimestamp"):
        most -= sum(one.action in REMOVALS for one in changes)
    return [one for one in found if not (one.path == ("metadata", "generation") and _grew(one, most))]


# A Binding did not in 1.36, but what a pod's spec is may be counted.
_GROWS = {Action.DELETE: 1, Action.WITH_SERVICE: 1, Action.EVICT: 1, Action.SCALE: 1, Action.BIND: 1}


def _grew(difference: Difference, most: int) -> bool:
    old, new = difference.old, difference.new
    return isinstance(old, int) and isinstance(new, int) and 0 <= new - old <= most


# -- what reading does ------------------------------------------------------------------------------------------------

# Of these types somebody's data is at any place: what is added there is no default.
_NO_DEFAULTS = frozenset(["ConfigMap", "Secret"])
_WRITTEN = frozenset([("spec", "nodeName")])  # by a Binding, which leaves managedFields alone
_BUILT_IN = frozenset(["", "apps", "batch", "autoscaling", "policy", "extensions"])


def is_default(found: Sequence[Difference], expected: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether all differences come of reading the object, and none of a write.

    Reading fills in what a type's newer version, or a new server, has by default, labels of a pod template in an
    object without labels, and for custom resources drops what their schema does not know any more. Whoever writes
    leaves a trace: a new generation, or another entry in managedFields.
    """
    template = _fields(_fields(_fields(after, "spec"), "template"), "metadata").get("labels")
    labels = ("metadata", "labels")
    rest = [one for one in found if not (one.path == labels and template and same(one.new, template))]
    if not rest:
        return True
    if after.get("kind") in _NO_DEFAULTS or any(one.path[:1] != ("spec",) or one.path in _WRITTEN for one in rest):
        return False
    if any(one.old is not Missing.ABSENT for one in rest) and not (
        _is_custom(after) and all(Missing.ABSENT in (one.old, one.new) for one in rest)
    ):
        return False
    old, new = _fields(expected, "metadata"), _fields(after, "metadata")
    if "managedFields" in old and "managedFields" in new:
        return same(old["managedFields"], new["managedFields"])
    return "generation" in new and old.get("generation") == new["generation"]


def is_filled_in(found: Sequence[Difference], expected: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether all differences are fields of the status that reading filled in, such as a claim's phase.

    Whoever writes a status is in managedFields.
    """
    old, new = _fields(expected, "metadata"), _fields(after, "metadata")
    if not found or "managedFields" not in old or not same(old["managedFields"], new.get("managedFields")):
        return False
    return all(one.path[:1] == ("status",) and one.old is Missing.ABSENT for one in found)


def _is_custom(value: dict[str, Any]) -> bool:
    group = str(value.get("apiVersion", "")).rpartition("/")[0]
    return group not in _BUILT_IN and not group.endswith(".k8s.io")


# A conversion may change the rest: labels and annotations of a custom resource, annotations of our own types.
_SAME_IN_EVERY_VERSION = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "generation",
    "ownerReferences",
)


def unversioned(value: dict[str, Any]) -> dict[str, Any]:
    """Return what of an object is the same in every version of its type."""
    metadata = _fields(value, "metadata")
    return {"metadata": {name: metadata[name] for name in _SAME_IN_EVERY_VERSION if name in metadata}}


def _fields(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}
