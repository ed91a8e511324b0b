"""The real browser of the tests, and the site that it opens: the app's page, its own backend, the packages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, BrowserContext, Page, Playwright

from otel_voice.edge import COOKIE
from tests.components.browser import BUNDLES, PAGES
from tests.real import Program, wait_for

Found = TypeVar("Found")

CLIENT = Path(__file__).parents[1] / "otel_voice" / "browser"
FOLDERS = {"client": CLIENT, "packages": BUNDLES, "": PAGES}
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html; charset=utf-8"}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--log-level=3",
    "--password-store=basic",
    # A window that nobody looks at is no background.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


class Chromium(Program):
    """Chromium as a process of ours, so that a test can kill it; a second one on the same profile takes it over.

    Playwright only connects to it: started by Playwright, it would have no back-forward cache."""

    def __init__(self, binary: Path, profile: Path, folder: Path, *flags: str) -> None:
        told = profile / "DevToolsActivePort"
        told.unlink(missing_ok=True)
        options = [f"--user-data-dir={profile}", "--remote-debugging-port=0", *FLAGS, *flags]
        super().__init__("chromium", [str(binary), *options, "about:blank"], folder, {})

        def port() -> str | None:
            assert not self.ended(), f"Chromium ended with {self.process.returncode} at its start\n{self.log()}"
            lines = told.read_text().split() if told.exists() else []
            return lines[0] if len(lines) > 1 else None

        self.url = f"http://127.0.0.1:{wait_for(port, 30, 'Chromium to listen', self.log)}"

    def connect(self, playwright: Playwright) -> Browser:
        return playwright.chromium.connect_over_cdp(self.url)


@dataclass
class Own:
    """A browser of a test's own, with a profile that outlives it."""

    program: Chromium
    context: BrowserContext


@dataclass
class Request:
    """What the site was asked; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """The app's own site, at an origin of its own.

    GET / is the app's page; `pages` has more of them by path, all with `headers`. POST /api/token asks the receiver for
    a session, with `wanted` and what the page's body says; `made` notes the answers. /api/headers answers with the
    headers that it got, to pages of any origin. /client/ is the client, /packages/ are the npm bundles, the rest is
    tests/browser."""

    receiver_url: str
    pages: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pages.setdefault("/", (PAGES / "app.html").read_text())
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in list(self.requests) if request.path == path]

    def mint(self, body: bytes) -> tuple[int, Any]:
        """A session's token, as the app's backend gets it."""
        try:
            answer = httpx.post(f"{self.receiver_url}/v1/sessions", json=self.wanted | json.loads(body or b"{}"))
        except httpx.TransportError as error:
            return 502, {"error": str(error)}
        if answer.is_success:
            self.made.append(answer.json())
        return answer.status_code, answer.json()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_OPTIONS(self) -> None:
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            path = urlsplit(self.path).path
            headers = {name.lower(): value for name, value in self.headers.items()}
            site.requests.append(Request(self.command, path, headers))
            if path == "/api/headers":
                return self.send(200, json.dumps(headers).encode(), OPEN)
            if path == "/api/token":
                status, said = site.mint(body)
                return self.send(status, json.dumps(said).encode(), {"Content-Type": "application/json"})
            if path in site.pages:
                return self.send(200, site.pages[path].encode(), {"Content-Type": TYPES[".html"], **site.headers})
            return self.file(path)

        def file(self, path: str) -> None:
            folder, _, name = path.removeprefix("/").rpartition("/")
            found = FOLDERS[folder] / name if folder in FOLDERS and ".." not in name else None
            if found is None or found.suffix not in TYPES or not found.is_file():
                return self.send(204 if path == "/favicon.ico" else 404, b"", {})
            self.send(200, found.read_bytes(), {"Content-Type": TYPES[found.suffix]})

        def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """What it got is in `requests`."""

    return Answer


OPEN = {
    "Content-Type": "application/json",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": "*",
}


def until(page: Page, condition: Callable[[], Found | None], deadline_s: float = 20, what: str = "") -> Found:
    """`wait_for`, while the handlers that a test has given to Playwright go on being called."""

    def found() -> Found | None:
        page.wait_for_timeout(20)
        return condition()

    return wait_for(found, deadline_s, what)


def log_out(page: Page) -> None:
    """Makes the page's cookie worthless; its tab knows nothing of it."""
    context = page.context
    origin = "/".join(page.url.split("/")[:3])
    (found,) = [each for each in context.cookies(origin) if each["name"] == COOKIE]
    httpx.post(f"{origin}/v1/viewer/logout", cookies={COOKIE: found["value"]}).raise_for_status()


def spans_of(receiver_url: str, session_id: str) -> list[dict[str, Any]]:
    """The session's spans as the receiver shows them."""
    answer = httpx.get(f"{receiver_url}/v1/sessions/{session_id}/spans").raise_for_status()
    spans: list[dict[str, Any]] = answer.json()["spans"]
    return spans


def final_spans(receiver_url: str, session_id: str, deadline_s: float = 20) -> list[dict[str, Any]]:
    """The session's spans once its root is final, some four seconds after its end."""

    def final() -> list[dict[str, Any]] | None:
        spans = spans_of(receiver_url, session_id)
        return spans if spans and not any(span.get("open") for span in spans) else None

    return wait_for(final, deadline_s, f"session {session_id} to be final")
