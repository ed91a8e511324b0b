"""The API as an OpenAPI document: paths and words from the routes, schemas from the types, the rest from `calls`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from otel_voice import __version__, calls
from otel_voice import events as e
from otel_voice.calls import CALLS, JSON, Answer, Body, Call, Schema
from otel_voice.edge import TIME_HEADER, Refusal
from otel_voice.receiver import Verdict
from otel_voice.static_files import File, answer, file_of
from otel_voice.watching import Changed, Growth

REF = "#/components/{}/{}"
SCHEMA_REF = REF.format("schemas", "{name}")
EVENT = {"$ref": REF.format("schemas", "Event")}
TIME = {TIME_HEADER: {"$ref": REF.format("headers", "Time")}}
HEADERS: Schema = {
    "Time": {
        "required": True,
        "schema": {"type": "number"},
        "description": "The receiver's time, in ms since the epoch.",
    },
    "RetryAfter": {"required": True, "schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."},
    "Authenticate": {"required": True, "schema": {"const": "Bearer"}},
}
# What a session that was just made can be used for.
LINKS: Schema = {
    "postEvents": {"body": {"token": "$response.body#/token"}},
    "endSession": {"body": {"token": "$response.body#/token"}},
    **{name: {} for name in ("readSession", "readSpans", "downloadEvents", "downloadSpans", "eraseSession")},
}


class OpenAPI:
    """The document, made when somebody first asks."""

    def __init__(self) -> None:
        self._file: File | None = None

    def routes(self) -> list[Route]:
        return [Route("/openapi.json", self.openapi, methods=["GET"])]

    async def openapi(self, request: Request) -> Response:
        """This API, as an OpenAPI document."""
        if self._file is None:
            self._file = file_of(msgspec.json.encode(document(request.app.routes)), JSON)
        return answer(request, self._file, {})


def document(routes: Iterable[BaseRoute]) -> Schema:
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for method, route in sorted(_found(routes), key=_place):
        paths.setdefault(route.path_format, {})[method.lower()] = _operation(
            CALLS[f"{method} {route.path_format}"], route, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "otel_voice", "version": __version__, "description": calls.DESCRIPTION},
        "tags": [{"name": name, "description": what} for name, what in calls.TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {f"Refused{status}": _refusal(status) for status in calls.REFUSALS},
            "headers": HEADERS,
            "securitySchemes": calls.SCHEMES,
        },
    }


def _found(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, Route]]:
    """Each route that a call has, a method at a time; every GET answers HEAD, too."""
    for route in routes:
        if isinstance(route, Route):
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, route


def _place(found: tuple[str, Route]) -> int:
    return list(CALLS).index(f"{found[0]} {found[1].path_format}")


def _operation(call: Call, route: Route, schemas: _Schemas) -> Schema:
    summary, _, description = (inspect.getdoc(route.endpoint) or "").partition("\n\n")
    operation: Schema = {"tags": [call.tag], "operationId": call.id, "summary": summary.removesuffix(".")}
    if description:
        operation["description"] = description.replace("\n", " ")
    operation["security"] = [{name: []} for name in call.who]
    if parameters := [*_in_path(route), *call.parameters]:
        operation["parameters"] = parameters
    if call.body is not None:
        operation["requestBody"] = _body(call.body, schemas)
    answers = {status: _answer(each, schemas) for status, each in call.answers.items()}
    if call.id == "createSession":
        answers[201]["links"] = {name: _link(name, **said) for name, said in LINKS.items()}
    refused = {status: {"$ref": REF.format("responses", f"Refused{status}")} for status in (*call.refused, 403)}
    operation["responses"] = {str(status): each for status, each in sorted((refused | answers).items())}
    return operation


def _in_path(route: Route) -> Iterator[Schema]:
    for name in route.param_convertors:
        is_session = name == "id" and route.path_format.startswith("/v1/")
        schema = calls.SESSION_ID if is_session else {"type": "string"}
        example = calls.SESSION if name == "id" else calls.FILES[route.path_format]
        yield {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _body(body: Body, schemas: _Schemas) -> Schema:
    raw, inflated = body.most
    return {
        "description": f"At most {raw:,} bytes, {inflated:,} inflated.",
        "required": body.required,
        "content": {media: _content(schemas.of(body.type), media) | _example(body, media) for media in body.media},
    }


def _example(body: Body, media: str) -> Schema:
    is_text = media != JSON and not isinstance(body.example, str)
    return {"example": json.dumps(body.example) if is_text else body.example}


def _content(schema: Schema, media: str) -> Schema:
    """Of any other type than JSON it is text, which may hold JSON."""
    if media == JSON:
        return {"schema": schema}
    holds = {"contentMediaType": JSON, "contentSchema": schema} if schema else {}
    return {"schema": {"type": "string", **holds}}


def _answer(said: Answer, schemas: _Schemas) -> Schema:
    content = {media: _content(schemas.of(said.type), media) for media in said.media if said.type or media != JSON}
    return {"description": said.what, "headers": TIME} | ({"content": content} if content else {})


def _refusal(status: int) -> Schema:
    headers = dict(TIME)
    if status in calls.LATER:
        headers["Retry-After"] = {"$ref": REF.format("headers", "RetryAfter")}
    if status == 401:
        headers["WWW-Authenticate"] = {"$ref": REF.format("headers", "Authenticate")}
    content = {JSON: {"schema": {"$ref": SCHEMA_REF.format(name="Refusal")}}}
    return {"description": calls.REFUSALS[status], "headers": headers, "content": content}


def _link(operation: str, body: Schema | None = None) -> Schema:
    link: Schema = {"operationId": operation, "parameters": {"id": "$response.body#/session_id"}}
    return link | ({"requestBody": body} if body else {})


class _Schemas:
    """The types' schemas, all of them under their own names."""

    def __init__(self) -> None:
        types: list[Any] = [*_types(), Verdict, Refusal, Growth, Changed, e.WireEvent]
        schemas, components = msgspec.json.schema_components(types, ref_template=SCHEMA_REF)
        self._refs: dict[Any, Schema] = dict(zip(types, schemas, strict=True))
        self.components = {name: _plain(schema) for name, schema in sorted(components.items())}
        self.components["Event"] = _plain(schemas[-1]) | {"description": "What happened, and by `type` what it says."}
        # What is looked at apart from the decoding of the whole.
        batch, new = self.components["Envelope"]["properties"], self.components["NewSession"]["properties"]
        batch["events"] = {"type": "array", "items": EVENT, "maxItems": e.MAX_EVENTS}
        new["session_id"]["pattern"] = calls.SESSION_ID["pattern"]

    def of(self, type_: type | Schema | None) -> Schema:
        return self._refs[type_] if isinstance(type_, type) else type_ or {}


def _types() -> set[type]:
    said = [each for call in CALLS.values() for each in (call.body, *call.answers.values()) if each is not None]
    return {each.type for each in said if isinstance(each.type, type)}


def _plain(schema: Schema) -> Schema:
    """As an OpenAPI document says it: null among the types, one of several by their discriminator, and ECMA's `$`."""
    plain = {key: _inner(key, value) for key, value in schema.items() if key != "title"}
    if "discriminator" in plain:
        plain["oneOf"] = plain.pop("anyOf")
    if len(plain.get("enum", ())) == 1:
        (plain["const"],) = plain.pop("enum")
    if "pattern" in plain:
        plain["pattern"] = plain["pattern"].replace(r"\Z", "$")
    match plain.get("anyOf"):
        case [dict(one), {"type": "null"}] if isinstance(one.get("type"), str):
            del plain["anyOf"]
            return one | {"type": [one["type"], "null"]} | plain
    return plain


def _inner(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: _plain(each) for name, each in value.items()}
    if key in ("anyOf", "prefixItems"):
        return [_plain(each) for each in value]
    if key in ("items", "additionalProperties", "propertyNames") and isinstance(value, dict):
        return _plain(value)
    return value
