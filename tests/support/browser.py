"""A headless Chromium that loads the pages of a site, over the pipe of its DevTools protocol."""

import functools
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server for the files of `folder`."""
    server = ThreadingHTTPServer(("localhost", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """One window. `requests` has the address of everything that its pages asked for."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._loaded = False
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()[::-1]
        # The browser reads from descriptor 3 and writes to 4.
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{theirs}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *ARGUMENTS, f"--user-data-dir={folder}", "--remote-debugging-pipe"],
            pass_fds=(to_browser, theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(theirs)
        self._ours, self._from_browser = os.fdopen(ours, "wb"), os.fdopen(from_browser, "rb")
        self._unread = b""
        self._session: dict[str, str] = {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and waits for its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        self._ours.write(json.dumps(message).encode() + b"\0")
        self._ours.flush()
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def resize(self, width: int) -> None:
        """Makes the window `width` pixels wide; a narrow one is that of a phone."""
        mobile = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile)

    def show(self, address: str, width: int = 1280) -> None:
        """Loads a page and waits until it has loaded."""
        self.resize(width)
        self._loaded = False
        self.send("Page.navigate", url=address)
        while not self._loaded:
            self._next()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def close(self) -> None:
        """Ends the browser."""
        self.send("Browser.close")
        self._process.wait(timeout=30)
        self._ours.close()
        self._from_browser.close()

    def _next(self) -> dict[str, Any]:
        """The next message, after its event was noted."""
        while b"\0" not in self._unread:
            chunk = self._from_browser.read1(65536)
            assert chunk, "the browser has ended"
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(line)
        if message.get("method") == "Page.loadEventFired":
            self._loaded = True
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message
