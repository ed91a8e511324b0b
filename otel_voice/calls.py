"""Calls: what each route takes, from whom, and what it may answer. Its own docstring says what it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias, get_args

from msgspec import Struct

from otel_voice import events as e
from otel_voice import filters, spans
from otel_voice.adapters.allow import Provider
from otel_voice.edge import ADDRESS_REQUESTS, BODY_BYTES, BODY_S, COOKIE, INFLATED_BYTES, SESSION_REQUESTS
from otel_voice.logins import Login
from otel_voice.receiver import Made, Verdict
from otel_voice.static_files import TYPES
from otel_voice.summary import Summary
from otel_voice.viewer import LARGEST_PAGE, PAGE, VIEWED_BYTES, SessionList, SessionPlots, SessionSpans

Schema: TypeAlias = dict[str, Any]

JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
SSE, LINES = "text/event-stream", "application/x-ndjson"
SESSION = "6f1c2b3a-0000-4000-8000-0000000000aa"
# As `spans.session_id` has it.
_NO_SESSION = "|".join(["0{8}-?0{4}-?0{4}-?0{4}-?0{12}", *map(re.escape, spans.ELSE)])
SESSION_ID = {
    "type": "string",
    "pattern": f"^(?!({_NO_SESSION})$)[A-Za-z0-9._:-]{{1,128}}$",
    "description": "A UUID, or 1 to 128 characters of [A-Za-z0-9._:-].",
}

APP, PAGE_OR_APP = ("apiKey",), ("sessionToken", "apiKey")
READER, ANY_READER = ("apiKey", "viewerCookie"), ("sessionToken", "apiKey", "viewerCookie")
BODY, BATCH = (400, 408, 413, 415, 503), (400, 401, 408, 413, 415, 429, 503)
LOOK = (401, 422, 500, 503)


class Answer(Struct):
    """An answer of 2xx or 3xx, or one whose body is not only a `Refusal`. `type` is one, or a schema."""

    what: str
    type: Any = None
    media: tuple[str, ...] = (JSON,)


class Body(Struct):
    type: Any
    example: Any
    media: tuple[str, ...] = (JSON,)
    required: bool = True
    most: tuple[int, int] = (BODY_BYTES, INFLATED_BYTES)


class Call(Struct):
    """What a route's own words do not say. `refused` are the statuses of its refusals, 403 for strangers aside."""

    id: str
    tag: str
    answers: dict[int, Answer]
    who: tuple[str, ...] = ()
    refused: tuple[int, ...] = ()
    body: Body | None = None
    parameters: tuple[Schema, ...] = ()


TAGS = {
    "Sessions": "The app's backend makes a session and hands the answer to its page; either ends it.",
    "Events": "What a page tells of a call, in batches, fire and forget.",
    "Reading": "Calls as they are and were: for the pages, for scripts, for other tools.",
    "Viewer": "Who may look, where there is an API key.",
    "Operation": "For probes and dashboards; open to whoever reaches the receiver.",
    "Files": "What a browser loads; open to whoever reaches the receiver.",
}

DESCRIPTION = f"""Traces of voice sessions. Times are milliseconds since the epoch unless a name says otherwise.

Every answer carries the receiver's time in ms in `x-otel-voice-time`. Every refusal has the body `Refusal`: one
sentence. Every GET answers HEAD, too. Bodies may be gzip, with `content-encoding: gzip`. An integer is written
without a fraction: `5`, not `5.0`.

Without an API key the receiver binds to loopback only, and whoever reaches it is the app: no call but the posting of
events asks who one is; it answers on loopback names only, and only pages of this machine or of a listed origin.

A session may make {SESSION_REQUESTS:,} requests a minute, an address {ADDRESS_REQUESTS:,}; this machine's own addresses
are not counted."""

SCHEMES: dict[str, Schema] = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "The app: OTEL_VOICE_API_KEY. Where none is set, whoever reaches the receiver.",
    },
    "sessionToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The page: its session's token, as Bearer or as `token` in the body.",
    },
    "viewerCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A viewer: the cookie that `POST /v1/viewer/login` gives, to pages of this origin.",
    },
}

REFUSALS = {
    400: "The body is not what it says: no JSON, no gzip, a batch of no known form, or it ended too early.",
    401: "No key, token or cookie that is good.",
    403: "Not with this token, not from this origin or host, or the session has logged as much as one may.",
    404: "Nothing is known by this name.",
    408: f"The body was not there within {BODY_S:g} s.",
    413: f"More bytes than this call takes, or more than {e.MAX_EVENTS:,} events.",
    415: "Another type or encoding than this call takes.",
    422: "A field, a parameter or the id is not what it has to be.",
    429: "Too often, by this session or this address, or too many at once; nothing of it was stored.",
    500: "This session cannot be mapped to spans, which is a defect; its events are kept.",
    503: "The receiver has too much to do, or the store takes nothing now; nothing of it was stored.",
}
LATER = (429, 503)

WHAT = {
    "started_at": "the start (ms since the epoch)",
    "duration_ms": "the duration (ms)",
    "turns": "the number of turns",
    "interruptions": "the number of interruptions",
    "tools": "the number of tool calls",
    "tool_errors": "the number of tool calls that failed",
    "p50_ms": "the median latency (ms)",
    "p95_ms": "the 95th percentile of the latencies (ms)",
    "tokens": "the number of tokens",
    "lost": "the number of lost events",
}


def _query(name: str, schema: Schema, what: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": what, "schema": schema}


def _filters() -> Iterator[Schema]:
    text = {"type": "string", "maxLength": filters.TEXT_CHARS}
    number = {"anyOf": [{"type": "number", "minimum": 0}, {"const": ""}]}
    yield _query(
        "q", text, "Words that were said in one turn, or a part of user, agent or model, or the id's beginning."
    )
    for name, column in filters.EXACT.items():
        yield _query(name, text, f"`{column}` is this.")
    for name, column in filters.LEAST.items():
        yield _query(name, number, f"At least: {WHAT[column]}.")
    for name, column in filters.BELOW.items():
        yield _query(name, number, f"Below: {WHAT[column]}.")


FILTERS = tuple(_filters())
LIMIT = _query(
    "limit", {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE}, "How many at most."
)
BEFORE = _query("before", {"type": "string", "pattern": "^[0-9]{1,18}$"}, "Where to go on: `next` of the page before.")
PROVIDER = _query("provider", {"enum": [*get_args(Provider), ""]}, "Whose messages they are; else they tell.")
SEEN = _query("seen", {"type": "string"}, "As Last-Event-ID, for a page that opens a stream anew.")
LAST_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The last message that was seen; a browser says it by itself.",
    "schema": {"type": "string"},
}

NEW_SESSION = {"user_id": "u-17", "agent_name": "concierge"}
EVENTS = {
    "source": "page-1",
    "events": [
        {"type": "turn_start", "seq": 0, "turn_id": "t1"},
        {"type": "tool_call", "seq": 1, "call_id": "c1", "name": "get_weather", "arguments": {"city": "Rome"}},
        {"type": "tool_result", "seq": 2, "call_id": "c1", "result": {"sky": "clear"}},
        {"type": "turn_complete", "seq": 3, "turn_id": "t1", "user_text": "How is Rome?", "agent_text": "Clear."},
    ],
}
RECORDING = '{"type": "turn_complete", "turn_id": "t1", "ts": 1790000000000, "user_text": "Hello"}\n'
OTLP = {
    "type": "object",
    "properties": {"resourceSpans": {"type": "array", "items": {"type": "object"}}},
    "required": ["resourceSpans"],
    "externalDocs": {"url": "https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding"},
}
# A name for each route with one.
FILES = {
    "/client/{name}": "otel-voice.js",
    "/pages/{name}": "style.css",
    "/pages/vendor/{name}": "uplot-1.6.32.js",
}
VERDICT_OR_REFUSAL = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Verdict", "Refusal")]}
NOTHING_NEW = Answer("The copy that If-None-Match names is still the one.", media=())
ASSETS = tuple(TYPES.values())

CALLS = {
    "POST /v1/sessions": Call(
        "createSession",
        "Sessions",
        {201: Answer("It is known; the token is good for 36 hours.", Made)},
        APP,
        (*BODY, 401, 422, 429),
        Body(e.NewSession, NEW_SESSION, required=False),
    ),
    "POST /v1/sessions/{id}/end": Call(
        "endSession",
        "Sessions",
        {200: Answer("It has ended; its summary.", Summary)},
        PAGE_OR_APP,
        (*BATCH, 404, 422, 500),
        Body(e.EndRequest, {"reason": "user_hangup"}, (JSON, TEXT), required=False),
    ),
    "DELETE /v1/sessions/{id}": Call(
        "eraseSession", "Sessions", {204: Answer("It is erased.")}, APP, (401, 404, 422, 503)
    ),
    "POST /v1/sessions/{id}/events": Call(
        "postEvents",
        "Events",
        {
            204: Answer("All events are committed."),
            200: Answer("Some are committed; which are not, and why.", Verdict),
            422: Answer("No event is; why. Or the id is none.", VERDICT_OR_REFUSAL),
        },
        ("sessionToken",),
        BATCH,
        Body(e.Envelope, EVENTS, (JSON, TEXT)),
    ),
    "GET /v1/sessions": Call(
        "listSessions",
        "Reading",
        {200: Answer("A page of the list.", SessionList)},
        READER,
        LOOK,
        parameters=(*FILTERS, LIMIT, BEFORE),
    ),
    "GET /v1/sessions/plots": Call(
        "plotSessions", "Reading", {200: Answer("The figures.", SessionPlots)}, READER, LOOK, parameters=FILTERS
    ),
    "GET /v1/sessions/stream": Call(
        "streamSessions",
        "Reading",
        {200: Answer("Server-sent events until either side ends it.", media=(SSE,))},
        READER,
        LOOK,
        parameters=(LAST_ID,),
    ),
    "GET /v1/sessions/{id}": Call(
        "readSession", "Reading", {200: Answer("Its summary so far.", Summary)}, ANY_READER, (*LOOK, 404)
    ),
    "GET /v1/sessions/{id}/spans": Call(
        "readSpans", "Reading", {200: Answer("It and its spans.", SessionSpans)}, READER, (*LOOK, 404)
    ),
    "GET /v1/sessions/{id}/stream": Call(
        "streamSession",
        "Reading",
        {200: Answer("Server-sent events until the session is over or either side ends it.", media=(SSE,))},
        READER,
        (*LOOK, 404),
        parameters=(SEEN, LAST_ID),
    ),
    "GET /v1/sessions/{id}/events": Call(
        "downloadEvents", "Reading", {200: Answer("A file.", media=(LINES,))}, READER, (*LOOK, 404)
    ),
    "GET /v1/sessions/{id}/otlp": Call(
        "downloadSpans", "Reading", {200: Answer("A file.", OTLP)}, READER, (*LOOK, 404)
    ),
    "POST /v1/view": Call(
        "viewRecording",
        "Reading",
        {200: Answer("The session that it would be.", SessionSpans)},
        READER,
        (*BODY, 401, 422),
        Body(None, RECORDING, (LINES,), most=VIEWED_BYTES),
        parameters=(PROVIDER,),
    ),
    "POST /v1/viewer/login": Call(
        "login",
        "Viewer",
        {204: Answer("The cookie is set.")},
        (),
        (*BATCH, 404, 422),
        Body(Login, {"token": "the viewer token"}),
    ),
    "POST /v1/viewer/logout": Call("logout", "Viewer", {204: Answer("There is no cookie any more.")}),
    "GET /healthz": Call("healthz", "Operation", {200: Answer("`ok`", media=(TEXT,))}),
    "GET /readyz": Call(
        "readyz", "Operation", {200: Answer("`ok`", media=(TEXT,)), 503: Answer("Why not.", media=(TEXT,))}
    ),
    "GET /metrics": Call("metrics", "Operation", {200: Answer("The numbers.", media=(TEXT,))}, refused=(503,)),
    "GET /openapi.json": Call(
        "openapi", "Operation", {200: Answer("The document.", {"type": "object"}), 304: NOTHING_NEW}
    ),
    "GET /docs": Call("docs", "Files", {200: Answer("The page.", media=(HTML,)), 304: NOTHING_NEW}),
    "GET /client/{name}": Call(
        "client", "Files", {200: Answer("The file.", media=(TYPES[".js"],)), 304: NOTHING_NEW}, refused=(404,)
    ),
    "GET /": Call("list", "Files", {200: Answer("The page.", media=(HTML,)), 304: NOTHING_NEW}),
    "GET /sessions/{id}": Call("session", "Files", {200: Answer("The page.", media=(HTML,)), 304: NOTHING_NEW}),
    "GET /pages/{name}": Call(
        "page", "Files", {200: Answer("The file.", media=ASSETS), 304: NOTHING_NEW}, refused=(404,)
    ),
    "GET /pages/vendor/{name}": Call(
        "vendored", "Files", {200: Answer("The file.", media=ASSETS), 304: NOTHING_NEW}, refused=(404,)
    ),
}
