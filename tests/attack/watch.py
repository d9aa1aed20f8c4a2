"""What a server takes: the resident memory of its process and its children, descriptors, threads."""

import contextlib
import pathlib
import re
import resource
import threading
import time

EVERY_SECONDS = 0.02
PAGE_BYTES = resource.getpagesize()


class Watch:
    """Samples a server's memory on a thread, until `end`. ``peak_bytes`` since `begin` was called last."""

    def __init__(self, pid):
        self.pid = pid
        self.start_bytes = self.peak_bytes = tree_bytes(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self):
        """Forget the peak, the system's too."""
        with contextlib.suppress(OSError):
            pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        self.peak_bytes = tree_bytes(self.pid)

    def end(self):
        self._ended.set()
        self._thread.join(5)

    def settled(self, bytes_more, seconds):
        """Return the bytes beyond the start, once they are no more than allowed, or after so many seconds."""
        until = time.monotonic() + seconds
        while (more := tree_bytes(self.pid) - self.start_bytes) > bytes_more and time.monotonic() < until:
            time.sleep(0.1)
        return more

    def _run(self):
        while not self._ended.wait(EVERY_SECONDS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(self.pid), own_peak_bytes(self.pid, self.peak_bytes))


def tree_bytes(pid):
    """Return the resident bytes of a process and all below it; 0 where it is gone."""
    return sum(resident_bytes(one) for one in tree(pid))


def tree(pid):
    """Return a process and those below it, but for one that is not yet more than a copy of its parent."""
    found = [pid]
    own = read(f"/proc/{pid}/cmdline")
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, read(task / "children").split()):
                if read(f"/proc/{child}/cmdline") != own:
                    found += tree(child)
    return found


def resident_bytes(pid):
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE_BYTES if fields else 0


def own_peak_bytes(pid, known):
    """Return the peak of the process alone, as the system has it, where that is more than is known."""
    found = re.search(r"VmHWM:\s+(\d+) kB", read(f"/proc/{pid}/status"))
    return int(found[1]) << 10 if found and int(found[1]) << 10 > known else 0


def new_lines(path, read_bytes):
    """Return a file's lines since the last time; ``read_bytes`` says by path how far it was read. Half ones wait."""
    at = read_bytes.get(path, 0)
    with open(path, "rb") as file:
        file.seek(at)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    read_bytes[path] = at + len(whole)
    return whole.splitlines(keepends=True)


def descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def read(path):
    """Return a file of /proc as text, empty where it is gone."""
    with contextlib.suppress(OSError):
        return pathlib.Path(path).read_text()
    return ""
