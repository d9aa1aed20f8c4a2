"""A real Chromium for tests, driven by its own protocol over a pipe: pages, keys, the mouse, complaints."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_SECONDS = 30.0
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "+": 187, "-": 189, "0": 48,
}  # fmt: skip


def found():
    """Return the path of a Chromium, from CHROMIUM or the PATH; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser():
    """Run a browser that ends with the test; yield it."""
    to_child, from_child = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = (
            f"exec {found()} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
            f" --disable-background-networking --disable-component-update --disable-sync"
            f" --disable-ipc-flooding-protection --remote-debugging-pipe"
            f" --user-data-dir={profile} about:blank 3<&{to_child[0]} 4>&{from_child[1]}"
        )
        process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(to_child[0], from_child[1]), stderr=subprocess.DEVNULL
        )
        os.close(to_child[0])
        os.close(from_child[1])
        try:
            yield Browser(to_child[1], from_child[0])
        finally:
            os.close(to_child[1])
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(from_child[0])


class Browser:
    """Speaks the protocol; ``events`` are what it said unasked."""

    def __init__(self, write, read):
        self._write, self._read = write, read
        self._rest, self._number = b"", 0
        self.events = []

    def call(self, method, session=None, /, **params):
        """Call a method; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def page(self, width=1200, height=900, *, dark=False):
        """Open an empty page; return it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=scheme)
        return page

    def _next(self):
        until = time.monotonic() + ANSWER_SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium has ended"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


class Page:
    """One page of it."""

    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def open(self, url):
        """Go there; return after how many seconds the report was ready."""
        began = time.monotonic()
        self.call("Page.navigate", url=url)
        self.wait("!!document.documentElement?.classList.contains('ready')")
        return time.monotonic() - began

    def value(self, expression):
        """Return what an expression is."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=15.0):
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)

    def press(self, key):
        """Press a key and let it go."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        fields = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, 0)} | ({"text": text} if text else {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def drag(self, start, end):
        """Drag the mouse from one point to another."""
        for type_, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=type_, x=x, y=y, **button)

    def picture(self, path):
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """Return what it has logged as an error, thrown, or blocked."""
        self.value("1")
        return [
            event
            for event in self._of("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
            if event["params"].get("entry", {}).get("level", "error") == "error"
        ]

    def requests(self):
        """Return the addresses that it has asked for."""
        self.value("1")
        return [event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent")]

    def _of(self, *methods):
        some = (event for event in self._browser.events if event.get("sessionId") == self._session)
        return [event for event in some if event["method"] in methods]
