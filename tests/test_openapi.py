"""The API's document: valid, of all routes and no others, and what the receiver does, by Schemathesis on a real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from starlette.routing import Route

from otel_voice.calls import CALLS, FILES, SESSION_ID
from otel_voice.spans import session_id
from tests.contract import Contract
from tests.real import Receiver
from tests.running import API_KEY, SESSION, TOKEN_KEY, App, running

HERE = Path(__file__).parent
ROOT = HERE.parent
SETTINGS = {
    "OTEL_VOICE_API_KEY": API_KEY,
    "OTEL_VOICE_TOKEN_KEY": TOKEN_KEY,
    "OTEL_VOICE_VIEWER_TOKEN": "a-token-that-viewers-know",
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def app(tmp_path: Path, anyio_backend: str) -> AsyncIterator[App]:
    async with running(tmp_path, api_key=API_KEY) as app:
        yield app


@pytest.fixture
async def document(app: App) -> Document:
    said: Document = (await app.client.get("/openapi.json")).json()
    return said


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(said: Any) -> Iterator[str]:
    if isinstance(said, dict):
        yield from [said["$ref"]] if isinstance(said.get("$ref"), str) else []
        said = list(said.values())
    if isinstance(said, list):
        for each in said:
            yield from references(each)


@pytest.mark.anyio
async def test_it_is_a_valid_document_whose_schemas_are_valid(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": DIALECT, **schema})


@pytest.mark.anyio
async def test_every_name_that_it_refers_to_is_there(document: Document) -> None:
    for reference in references(document):
        found: Any = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    linked = document["paths"]["/v1/sessions"]["post"]["responses"]["201"]["links"]
    assert {link["operationId"] for link in linked.values()} <= set(ids)
    groups = {tag["name"] for tag in document["tags"]}
    assert {tag for _, operation in operations(document) for tag in operation["tags"]} == groups


@pytest.mark.anyio
async def test_it_has_every_route_with_its_methods_and_no_other(app: App, document: Document) -> None:
    routes = {
        f"{method} {route.path_format}"
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    assert {name for name, _ in operations(document)} == {each for each in routes if not each.startswith("HEAD ")}
    assert set(CALLS) == {name for name, _ in operations(document)}


@pytest.mark.anyio
async def test_every_call_says_what_it_does(document: Document) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
    unsaid = [name for name, schema in document["components"]["schemas"].items() if not schema.get("description")]
    assert not unsaid


@pytest.mark.anyio
async def test_whoever_reaches_the_receiver_may_have_it_and_holds_a_copy_as_long_as_it_is_the_one(app: App) -> None:
    answer = await app.client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-cache"
    again = await app.client.get("/openapi.json", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await app.client.head("/openapi.json")
    assert (head.status_code, head.content) == (200, b"")
    assert (await app.client.post("/openapi.json")).status_code == 405


@pytest.mark.anyio
@pytest.mark.parametrize(("path", "name"), FILES.items())
async def test_the_files_that_it_names_are_served(app: App, path: str, name: str) -> None:
    assert (await app.client.get(path.format(name=name))).status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "6F1C2B3A-0000-4000-8000-0000000000AA",
        "6f1c2b3a0000400080000000000000aa",
        "a",
        "a" * 128,
        "a" * 129,
        "",
        "a b",
        "a\n",
        "plots",
        "plots2",
        "stream",
        ".",
        "..",
        "...",
        "0" * 32,
        "00000000-0000-0000-0000-000000000000",
        "0000000000000000-0000-0000-000000000000",
        "0" * 33,
    ],
)
def test_its_pattern_of_session_ids_is_what_the_receiver_holds_them_to(text: str) -> None:
    try:
        session_id(text)
    except ValueError:
        is_good = False
    else:
        is_good = True
    assert jsonschema_rs.is_valid(SESSION_ID, text) == is_good


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sessions", "GET, HEAD, POST"),
        ("/v1/sessions/some", "DELETE, GET, HEAD"),
        ("/v1/sessions/some/events", "GET, HEAD, POST"),
        ("/v1/sessions/plots", "GET, HEAD"),
        ("/v1/sessions/stream", "GET, HEAD"),
        ("/v1/viewer/login", "POST"),
    ],
)
async def test_a_method_that_is_not_there_is_told_all_that_are(app: App, path: str, methods: str) -> None:
    answer = await app.client.request("PATCH", path)
    assert (answer.status_code, answer.headers.get_list("allow")) == (405, [methods])


@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver(**SETTINGS)
    known = {"session_id": SESSION, "user_id": "u-1"}  # the id of the document's examples
    headers = {"authorization": f"Bearer {API_KEY}"}
    httpx.post(f"{running.url}/v1/sessions", json=known, headers=headers).raise_for_status()
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(HERE / "schemathesis" / "schemathesis.toml"),
    ]
    run = ["run", f"{running.url}/openapi.json", "--generation-deterministic"]
    options = ["--max-examples", "40", "--workers", "1", "--no-color", "--warnings", "off"]
    env = {"PATH": "", "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.schemathesis.hooks"}
    done = subprocess.run(
        [*command, *run, *options], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=360
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in running.output.read_text()
    phases = re.findall(r"(Examples|Coverage|Fuzzing|Stateful) \(in", done.stdout)
    assert phases == ["Examples", "Coverage", "Fuzzing", "Stateful"], done.stdout


@pytest.mark.parametrize("of", ["/{id}/stream", "/stream"])
def test_a_streams_messages_are_those_that_are_described(receiver: Callable[..., Receiver], of: str) -> None:
    running = receiver()
    contract = Contract(httpx.get(f"{running.url}/openapi.json").json())
    made = httpx.post(f"{running.url}/v1/sessions", json={"user_id": "u-1"}).json()
    turn = {"type": "turn_complete", "turn_id": "t1", "user_text": "Hello"}
    httpx.post(made["events_url"], json={"token": made["token"], "events": [turn]}).raise_for_status()
    path = "/v1/sessions" + of.format(id=made["session_id"])
    # The list tells what changed since then.
    with httpx.stream("GET", running.url + path, headers={"last-event-id": "0"}, timeout=20) as answer:
        said = contract.answer(path, "GET", answer.status_code)
        assert said is not None
        assert list(said["content"]) == [answer.headers["content-type"].partition(";")[0]]
        (data,) = (line for _, line in zip(range(1), _data_in(answer), strict=False))
    name = "Growth" if "id" in of else "Changed"
    contract.validate({"$ref": f"#/components/schemas/{name}"}, json.loads(data))
    assert made["session_id"] in data


def _data_in(answer: httpx.Response) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
