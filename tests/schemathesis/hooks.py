"""What Schemathesis cannot read in the document: who it is, how JSON goes in text, what a verdict may say."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import schemathesis
from schemathesis import AuthContext, Case, CheckContext, HookContext, Response, SerializationContext

from otel_voice.spans import session_id
from otel_voice.tokens import Tokens
from tests.running import API_KEY, TOKEN_KEY

BATCH = "POST /v1/sessions/{id}/events"


@schemathesis.auth(cache_by_key=lambda case, ctx: f"{case.operation.label} {case.path_parameters}")
class Bearer:
    """The app, by its key; where events are posted, the session's page, by its token."""

    def get(self, case: Case[Any], ctx: AuthContext) -> str:
        if case.operation.label != BATCH:
            return API_KEY
        try:
            session = session_id(str(case.path_parameters["id"]))
        except (KeyError, ValueError):
            session = "nobody"
        return Tokens(TOKEN_KEY.encode()).mint(session, time.time() + 3600)

    def set(self, case: Case[Any], data: str, ctx: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_load_schema(ctx: HookContext, raw_schema: dict[str, Any]) -> None:
    """Text that holds JSON is made by the schema of what it holds."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                media["schema"] = media["schema"].get("contentSchema", media["schema"])


@schemathesis.serializer("text/plain", "application/x-ndjson")
def in_text(ctx: SerializationContext, value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else _json(value)


@schemathesis.serializer("application/json")
def as_json(ctx: SerializationContext, value: Any) -> bytes:
    return _json(value)


def _json(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(_written(value)).encode()


def _written(value: Any) -> Any:
    """To a schema 5.0 is an integer, and nobody writes it so."""
    if isinstance(value, dict):
        return {name: _written(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53 else value


@schemathesis.check
def only_times_are_refused(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Of a batch that the schema allows, no event is refused but for a time that lies elsewhere by its clock."""
    if case.operation.label != BATCH or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if response.status_code in (200, 422):
        said = msgspec.json.decode(response.content)
        errors = [rejected["error"] for rejected in said["rejected"]]
        assert errors and all(error.startswith("ts: it lies") for error in errors), errors
