"""How a process of our own is started from ours: spawned and not forked, with the same package on its path."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["child_environment", "python_command"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def python_command(module: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that runs ``module`` of this package (``""`` for the package itself)."""
    name = os.path.basename(_PACKAGE)
    return [sys.executable, "-m", f"{name}.{module}" if module else name, *arguments]


def child_environment() -> dict[str, str]:
    """Return our environment, with this package on the path."""
    path = os.pathsep.join(filter(None, [os.path.dirname(_PACKAGE), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
