"""A real browser without a window, driven over a pipe by Chromium's own DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/. No driver and no library stand between, so the
tests need the package `chromium` alone.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: install Debian's package chromium"
)


class Page:
    """One page; commands are answered in order, events are kept."""

    def __init__(self, sends: int, hears: int) -> None:
        self.sends, self.hears = sends, hears
        self.pending = b""
        self.events: list[dict[str, Any]] = []
        self.commands = 0
        self.session: str | None = None

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        self.commands += 1
        message: dict[str, Any] = {"id": self.commands, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.sends, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.commands:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.pending:
            heard = os.read(self.hears, 1 << 16)
            assert heard, "the browser has gone"
            self.pending += heard
        message, self.pending = self.pending.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Load a file, and wait until all of it is there."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def resize(self, width: int, height: int = 800) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def value(self, script: str) -> Any:
        """What a JavaScript expression is worth."""
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        text = {"Enter": "\r", " ": " "}[key]
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, text=text)

    def click(self, selector: str) -> None:
        """A mouse's click on the middle of an element."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{inline: 'center'}})")
        place = self.value(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
                clickCount=1,
            )  # fmt: skip

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def a_page(profile: Path) -> Iterator[Page]:
    """A fresh page in a browser of its own, its profile in `profile`."""
    to_browser, sends = os.pipe()
    hears, from_browser = os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4; the shell moves ours there.
    command = (
        f"exec {CHROMIUM} --headless=new --no-sandbox --disable-gpu --no-first-run "
        f"--disable-background-networking --user-data-dir='{profile}' --remote-debugging-pipe "
        f"about:blank 3<&{to_browser} 4>&{from_browser}"
    )
    browser = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(from_browser)
    page = Page(sends, hears)
    try:
        target = page.command("Target.createTarget", url="about:blank")["targetId"]
        attached = page.command("Target.attachToTarget", targetId=target, flatten=True)
        page.session = attached["sessionId"]
        yield page
        page.session = None
        page.command("Browser.close")
    finally:
        os.close(sends)
        os.close(hears)
        browser.terminate()
        browser.wait(timeout=30)
