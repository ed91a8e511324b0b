"""`python docs/screenshots.py`: the README's pictures of the viewer, of the demo's calls, in a real Chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from tests.components.browser import CHROMIUM  # noqa: E402
from tests.real import free_port, wait_for  # noqa: E402


def main() -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        command = [sys.executable, "-m", "otel_voice.cli", "demo", "--port", str(port), "--data-dir", data]
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            (*_, last) = wait_for(lambda: ended(url), 60, "the demo's calls")
            chromium = playwright.chromium.launch(executable_path=str(CHROMIUM.find()), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1280, "height": 720})
            for path, name in (("/", "sessions"), (f"/sessions/{last}", "session")):
                page.goto(url + path)
                page.wait_for_selector("main :is(tr, article, section)")
                page.wait_for_timeout(1_500)  # the plots and fonts have been drawn
                page.screenshot(path=FOLDER / f"{name}.png")
        finally:
            demo.terminate()
            demo.wait()


def ended(url: str) -> list[str]:
    """The sessions, the first made first, once those that do not go on are over."""
    try:
        found = httpx.get(f"{url}/v1/sessions").json()["sessions"]
    except httpx.TransportError:
        return []
    over = [each["session_id"] for each in reversed(found) if each["status"] == "ended"]
    return over if len(over) == 3 else []


if __name__ == "__main__":
    main()
