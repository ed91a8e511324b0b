"""Files that ship with the package, read once: the browser client at /client/NAME, for any page's script tag or import,
and the viewer's pages. No request's path reaches the disk."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PACKAGE = Path(__file__).parent
BROWSER, PAGES = PACKAGE / "browser", PACKAGE / "pages"
# A page asks each time whether its copy is still the one: after an update of the receiver it never has half of each.
CACHED = "no-cache"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
# Without these two, no page of another origin may load a module.
ANYBODY = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
# A transcript may hold anything: no script but ours runs, and none of ours may make markup of text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
VIEWER = {"content-security-policy": POLICY}


class File(Struct, frozen=True):
    content: bytes
    type: str
    etag: str


def answer(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    named = {"etag": file.etag, "cache-control": CACHED, **headers}
    if _matches(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=named)
    return Response(file.content, headers=named, media_type=file.type)


class Folder:
    """A folder's files of these kinds, and of its folder vendor/, by their names; none where there is no folder."""

    def __init__(self, path: Path, headers: Mapping[str, str], kinds: tuple[str, ...] = tuple(TYPES)) -> None:
        found = sorted([*path.glob("*"), *path.glob("vendor/*")])
        self._files = {
            each.relative_to(path).as_posix(): _read(each) for each in found if each.suffix in kinds and each.is_file()
        }
        self._headers = headers

    def __getitem__(self, name: str) -> File | None:
        return self._files.get(name)

    def answer(self, request: Request, name: str) -> Response:
        file = self[name]
        if file is None:
            raise HTTPException(404)
        return answer(request, file, self._headers)


class ClientFiles:
    def __init__(self, path: Path = BROWSER) -> None:
        self._folder = Folder(path, ANYBODY, (".js",))

    def routes(self) -> list[Route]:
        return [Route("/client/{name}", self.file, methods=["GET"])]

    async def file(self, request: Request) -> Response:
        """A file of the browser client, for pages of any origin."""
        return self._folder.answer(request, request.path_params["name"])


class PageFiles:
    """The viewer's pages: they hold no data, and whoever reaches the server may have them."""

    def __init__(self, path: Path = PAGES) -> None:
        self._folder = Folder(path, VIEWER)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/sessions/{id}", self.session, methods=["GET"]),
            Route("/docs", self.docs, methods=["GET"]),
            Route("/pages/{name}", self.file, methods=["GET"]),
            Route("/pages/vendor/{name}", self.vendored, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """The page with the list of sessions; it holds no data."""
        return self._folder.answer(request, "index.html")

    async def session(self, request: Request) -> Response:
        """The page of one session; it holds no data."""
        return self._folder.answer(request, "session.html")

    async def docs(self, request: Request) -> Response:
        """This reference, as a page."""
        return self._folder.answer(request, "docs.html")

    async def file(self, request: Request) -> Response:
        """A file of the pages."""
        return self._folder.answer(request, request.path_params["name"])

    async def vendored(self, request: Request) -> Response:
        """A file of a library that the pages use."""
        return self._folder.answer(request, f"vendor/{request.path_params['name']}")


def _read(path: Path) -> File:
    return file_of(path.read_bytes(), TYPES[path.suffix])


def file_of(content: bytes, type_: str) -> File:
    return File(content, type_, f'"{sha256(content).hexdigest()[:32]}"')


def _matches(said: str, etag: str) -> bool:
    """A proxy that compresses makes the tag a weak one."""
    return etag in [tag.strip().removeprefix("W/") for tag in said.split(",")]
