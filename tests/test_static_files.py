"""The files that ship: the client's for any page, the viewer's under a strict policy, and never a stale copy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from otel_voice.static_files import BROWSER, POLICY, ClientFiles, PageFiles
from tests.running import API_KEY, App, running

pytestmark = pytest.mark.anyio
ORIGIN = "https://app.example.com"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def keyed(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path, api_key=API_KEY, allowed_origins=(ORIGIN,)) as app:
        yield app


def client_of(folder: Path) -> httpx.AsyncClient:
    app = Starlette(routes=ClientFiles(folder).routes())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "browser").mkdir()
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "browser" / "a.js").write_text("export const a = '\u00e4';\n")
    (tmp_path / "browser" / "a.d.ts").write_text("export const a: string;\n")
    (tmp_path / "browser" / "package.json").write_text("{}")
    return tmp_path / "browser"


async def test_a_script_is_served_as_one_to_pages_of_any_origin(folder: Path) -> None:
    async with client_of(folder) as client:
        answer = await client.get("/client/a.js")
    assert (answer.status_code, answer.text) == (200, "export const a = '\u00e4';\n")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_head_says_the_same_without_the_file(folder: Path) -> None:
    async with client_of(folder) as client:
        got, said = await client.get("/client/a.js"), await client.head("/client/a.js")
    assert (said.status_code, said.content) == (200, b"")
    assert said.headers == got.headers


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}'])
async def test_a_copy_that_is_still_the_one_is_not_sent_again(folder: Path, form: str) -> None:
    async with client_of(folder) as client:
        etag = (await client.get("/client/a.js")).headers["etag"]
        again = await client.get("/client/a.js", headers={"if-none-match": form.format(etag)})
        other = await client.get("/client/a.js", headers={"if-none-match": '"other"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert again.headers["access-control-allow-origin"] == "*"
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "a.d.ts",
        "package.json",
        "b.js",
        "",
        "../secret.js",
        "%2e%2e/secret.js",
        "..%2fsecret.js",
        "a.js/",
        "a.js%00",
        "A.JS",
    ],
)
async def test_nothing_else_is_served(folder: Path, path: str) -> None:
    async with client_of(folder) as client:
        assert (await client.get(f"/client/{path}")).status_code in (404, 307)
        assert (await client.post("/client/a.js")).status_code == 405


@pytest.mark.parametrize("origin", [ORIGIN, "https://elsewhere.example"])
async def test_the_receiver_serves_every_script_that_is_there(keyed: App, origin: str) -> None:
    names = [path.name for path in BROWSER.glob("*.js")]
    assert names
    for name in names:
        answer = await keyed.client.get(f"/client/{name}", headers={"origin": origin})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in (origin, "*")
        assert answer.headers.get_list("cross-origin-resource-policy") == ["cross-origin"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_without_a_key_a_stranger_gets_no_script(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        name = next(BROWSER.glob("*.js")).name
        statuses = [
            (await app.client.get(f"/client/{name}", headers={"origin": origin})).status_code
            for origin in ("http://localhost:5173", "https://evil.example")
        ]
    assert statuses == [200, 403]


# The viewer's pages


def pages_of(folder: Path) -> httpx.AsyncClient:
    app = Starlette(routes=PageFiles(folder).routes())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    vendor = tmp_path / "pages" / "vendor"
    vendor.mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    (vendor.parent / "index.html").write_text("<!doctype html>the list")
    (vendor.parent / "session.html").write_text("<!doctype html>one")
    (vendor.parent / "style.css").write_text("body {}")
    (vendor.parent / "notes.md").write_text("no")
    (vendor / "uPlot.js").write_text("export {}")
    (vendor / "LICENSE.txt").write_text("MIT")
    return vendor.parent


@pytest.mark.parametrize(
    ("path", "type_", "text"),
    [
        ("/", "text/html", "<!doctype html>the list"),
        ("/sessions/6f1c2b3a-0000-4000-8000-0000000000aa", "text/html", "<!doctype html>one"),
        ("/pages/style.css", "text/css", "body {}"),
        ("/pages/vendor/uPlot.js", "text/javascript", "export {}"),
        ("/pages/vendor/LICENSE.txt", "text/plain", "MIT"),
    ],
)
async def test_a_page_and_its_files_are_served_under_a_strict_policy(
    pages: Path, path: str, type_: str, text: str
) -> None:
    async with pages_of(pages) as client:
        answer = await client.get(path)
        again = await client.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == f"{type_}; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["cache-control"] == "no-cache"
    assert "access-control-allow-origin" not in answer.headers
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["notes.md", "vendor", "../secret.html", "%2e%2e/secret.html", "..%2fsecret.html"])
async def test_no_other_file_is_a_page(pages: Path, path: str) -> None:
    async with pages_of(pages) as client:
        assert (await client.get(f"/pages/{path}")).status_code == 404


async def test_without_the_folder_there_are_no_pages(tmp_path: Path) -> None:
    async with pages_of(tmp_path / "nowhere") as client:
        for path in ("/", "/sessions/x", "/pages/style.css"):
            assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("key", [None, API_KEY])
async def test_the_receiver_gives_its_pages_to_whoever_may_reach_it(tmp_path: Path, key: str | None) -> None:
    async with running(tmp_path, api_key=key) as app:
        answer = await app.client.get("/pages/style.css")
        stranger = await app.client.get("/pages/style.css", headers={"host": "rebound.example"})
    assert (answer.status_code, answer.headers.get_list("content-security-policy")) == (200, [POLICY])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert stranger.status_code == (200 if key else 403)
