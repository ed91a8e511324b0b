"""The browser client's files at /client/NAME: public, for any page's script tag or import."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

BROWSER = Path(__file__).parent / "browser"
# A page asks each time whether its copy is still the one: after an update of the receiver it never has half of each.
CACHED = "no-cache"


class File(Struct, frozen=True):
    content: bytes
    etag: str


class ClientFiles:
    """A folder's scripts, read once; no request's path reaches the disk."""

    def __init__(self, folder: Path = BROWSER) -> None:
        self._files = {path.name: _read(path) for path in sorted(folder.glob("*.js"))}

    def route(self) -> Route:
        return Route("/client/{name}", self.file, methods=["GET"])

    async def file(self, request: Request) -> Response:
        file = self._files.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        headers = {
            "etag": file.etag,
            "cache-control": CACHED,
            # Without these two, no page of another origin may load a module.
            "access-control-allow-origin": "*",
            "cross-origin-resource-policy": "cross-origin",
        }
        if _matches(request.headers.get("if-none-match", ""), file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type="text/javascript")


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, f'"{sha256(content).hexdigest()[:32]}"')


def _matches(said: str, etag: str) -> bool:
    """A proxy that compresses makes the tag a weak one."""
    return etag in [tag.strip().removeprefix("W/") for tag in said.split(",")]
