"""A pod's volumes, as a kubelet makes them from what the API server has: directories of this machine."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

from api import Api

DEFAULT_MODE = 0o644


class NotKnown(AssertionError):  # noqa: N818 - says what happened
    """A manifest asks for what the node of these tests does not do: teach it, or the test proves less than it says."""


def make(api: Api, namespace: str, volume: dict[str, Any], place: Path, fs_group: int) -> Path:
    """Return the directory of one volume; ``place`` is the pod's own for it."""
    kind, source = next((key, value) for key, value in volume.items() if key != "name")
    core = f"/api/v1/namespaces/{namespace}"
    if kind == "secret":
        data = _data(api, f"{core}/secrets/{source['secretName']}", source)
        _write(place, {key: base64.b64decode(text) for key, text in data.items()}, source, fs_group)
    elif kind == "configMap":
        data = _data(api, f"{core}/configmaps/{source['name']}", source)
        _write(place, {key: text.encode() for key, text in data.items()}, source, fs_group)
    elif kind == "emptyDir":
        place.mkdir(parents=True)
        _for_group(place, fs_group)
    elif kind == "persistentVolumeClaim":
        claim = api.must("GET", f"{core}/persistentvolumeclaims/{source['claimName']}").json
        volume = api.must("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}").json
        place = Path(volume["spec"]["hostPath"]["path"])
        _for_group(place, fs_group)
    else:
        raise NotKnown(f"a volume of kind {kind}")
    return place


def _data(api: Api, path: str, source: dict[str, Any]) -> dict[str, str]:
    answer = api.call("GET", path)
    if answer.status == 404 and source.get("optional"):
        return {}
    data: dict[str, str] = api.must("GET", path).json.get("data", {})
    if "items" in source:
        return {item["path"]: data[item["key"]] for item in source["items"]}
    return data


def _write(place: Path, files: dict[str, bytes], source: dict[str, Any], group: int) -> None:
    """Write the files as a kubelet does: links through ``..data``, readable by the pod's group."""
    now = place / "..now"
    now.mkdir(parents=True)
    for name, content in files.items():
        file = now / name
        file.write_bytes(content)
        os.chown(file, 0, group)
        file.chmod(source.get("defaultMode", DEFAULT_MODE) | stat.S_IRUSR | stat.S_IRGRP)
        (place / name).symlink_to(f"..data/{name}")
    (place / "..data").symlink_to("..now")
    for folder in (place, now):
        os.chown(folder, 0, group)
        folder.chmod(0o2755)


def _for_group(folder: Path, group: int) -> None:
    os.chown(folder, 0, group)
    folder.chmod(0o2775)
