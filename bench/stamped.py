"""The function, with the time taken wherever a review goes from one part to the next. See parts.py.

Runs ``python -m function serve`` as it is, but for the calls named here, which note ``perf_counter`` on their way (the
system's monotonic clock: the caller's times compare). At the end a line of JSON for each review goes to STAMPS_FILE.
Meant for one review at a time.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.getcwd())

from function.journal.files import Files
from function.journal.group_commit import Journal
from function.serving.protocol import Connection

now = time.perf_counter
reviews: list[dict[str, float]] = []
review: dict[str, float] = {}


def stamp(owner: type, method: str, before: str, after: str = "", *, first: bool = False) -> None:
    """Note when ``owner.method`` begins, and when it ends; ``first``: of many calls only the first."""
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    def stamped(*args: Any, **kwargs: Any) -> Any:
        if not (first and before in review):
            review[before] = now()
        try:
            return original(*args, **kwargs)
        finally:
            if after:
                review[after] = now()

    setattr(owner, method, stamped)


def end_with_the_answer() -> None:
    """Begin anew behind each answer."""
    original = Connection.answer

    def answer(self: Connection, *args: Any, **kwargs: Any) -> None:
        review["answer"] = now()
        original(self, *args, **kwargs)
        if "submit" in review:
            reviews.append(dict(review))
        review.clear()

    Connection.answer = answer  # type: ignore[method-assign] - for the measurement


def collections(phase: str, info: dict[str, int]) -> None:
    """Count what the garbage collector does, by time."""
    del info
    if phase == "start":
        review["collect"] = now()
    elif "collect" in review:
        review["collected"] = review.get("collected", 0.0) + now() - review.pop("collect")


def write() -> None:
    """Write what was noted."""
    with open(os.environ["STAMPS_FILE"], "w") as file:
        file.writelines(json.dumps(one) + "\n" for one in reviews)


stamp(Connection, "data_received", "received last")
stamp(Connection, "data_received", "received", first=True)
stamp(Journal, "submit", "submit")
stamp(Journal, "_hand_over", "hand over", "handed over")
stamp(Journal, "_store_group", "taken")
stamp(Files, "write", "write", "written")
stamp(Files, "datasync", "sync", "synced")
stamp(Journal, "_call_on_loop", "call")
stamp(Journal, "_finish", "finish")
end_with_the_answer()
gc.callbacks.append(collections)
atexit.register(write)
sys.argv = ["function", "serve"]
runpy.run_module("function", run_name="__main__", alter_sys=True)
