"""The wire contract: one type per event, the batch decoder, a verdict per event.

Times are milliseconds since the epoch by the sender's clock. `seq` numbers a source's events from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from otel_voice import fields as f
from otel_voice.bodies import Refused, TooDeep, TooMany, cut_deep, decode, sentence

# Any real call is younger than this; a clock that says otherwise is unset.
EARLIEST_MS = 946_684_800_000  # 2000-01-01
LATEST_MS = 4_102_444_800_000  # 2100-01-01
MAX_EVENTS = 1_000
# What anybody may have decoded, token or none: a millisecond's work.
PLAIN_BYTES = 2**16

Role = Literal["user", "agent", "assistant"]
EndReason = Literal["completed", "interrupted", "session_closed"]
InterruptionSource = Literal["user_speech", "tool_response", "programmatic"]


class Usage(Struct, omit_defaults=True):
    """Tokens of one model response. The modality counts are contained in the totals; None is "not said"."""

    input_tokens: f.Count | None = None
    output_tokens: f.Count | None = None
    input_text_tokens: f.Count | None = None
    input_audio_tokens: f.Count | None = None
    input_image_tokens: f.Count | None = None
    output_text_tokens: f.Count | None = None
    output_audio_tokens: f.Count | None = None
    cached_tokens: f.Count | None = None
    cached_text_tokens: f.Count | None = None
    cached_audio_tokens: f.Count | None = None
    reasoning_tokens: f.Count | None = None


class Event(Struct, kw_only=True, omit_defaults=True, tag_field="type"):
    seq: f.Seq | None = None
    ts: f.Millis | None = None


class TurnStart(Event, tag="turn_start"):
    """A turn begins: the user says something, and the agent is to answer."""

    turn_id: f.TurnId


class TurnComplete(Event, tag="turn_complete"):
    """A turn is over. By itself it is enough for a whole turn; what is not said is told from the other events."""

    turn_id: f.TurnId
    user_text: f.Text | None = None
    agent_text: f.Text | None = None
    usage: Usage | None = None
    model: f.Model | None = None
    end_reason: EndReason | None = None


class ToolCall(Event, tag="tool_call"):
    """The model calls a tool. `arguments` are any JSON; parallel and late calls stay apart by `call_id`."""

    call_id: f.CallId
    name: f.Name
    arguments: Any = None
    turn_id: f.TurnId | None = None
    response_id: f.ResponseId | None = None


class ToolResult(Event, tag="tool_result"):
    """A result, an error or a cancellation; with none of them, the tool answered nothing."""

    call_id: f.CallId
    result: Any = UNSET
    error: Any = UNSET
    cancelled: bool = False
    name: f.Name | None = None
    turn_id: f.TurnId | None = None

    def __post_init__(self) -> None:
        if self.error is None:
            self.error = UNSET  # `{"result": …, "error": null}` says that there was none


class ProviderMessage(Event, tag="provider_message"):
    """A message of the provider's own protocol, as it was. Of it is kept what a list of keys names, and no audio."""

    provider: Literal["gemini-live", "openai-realtime"]
    dir: Literal["sent", "received"]
    message: dict[str, Any]


class Transcript(Event, tag="transcript"):
    """Chunks of one `item_id` are joined in order; a final one replaces them.

    `typed` text was written, not spoken: the answer's latency runs from it.
    """

    role: Role
    text: f.Text
    final: bool = False
    typed: bool = False
    item_id: f.ItemId | None = None
    turn_id: f.TurnId | None = None
    response_id: f.ResponseId | None = None


class Bound(Event):
    """When somebody was audible. Only measured bounds: `measured_by` says how."""

    measured_by: f.MeasuredBy | None = None
    turn_id: f.TurnId | None = None


class UserSpeechStart(Bound, tag="user_speech_start"):
    """The user began to be audible."""

    item_id: f.ItemId | None = None


class UserSpeechEnd(Bound, tag="user_speech_end"):
    """The user was audible until here."""

    item_id: f.ItemId | None = None


class AgentSpeechStart(Bound, tag="agent_speech_start"):
    """The agent began to be audible."""

    response_id: f.ResponseId | None = None


class AgentSpeechEnd(Bound, tag="agent_speech_end"):
    """The agent was audible until here."""

    response_id: f.ResponseId | None = None
    heard_ms: f.HeardMs | None = None


class ResponseStart(Event, tag="response_start"):
    """The model begins a response."""

    response_id: f.ResponseId | None = None
    model: f.Model | None = None
    turn_id: f.TurnId | None = None


class ResponseEnd(Event, tag="response_end"):
    """The response is over; `finish_reason` as the provider says it. With `error` it failed."""

    response_id: f.ResponseId | None = None
    model: f.Model | None = None
    finish_reason: f.Name | None = None
    usage: Usage | None = None
    error: f.Text | None = None
    error_type: f.Name | None = None
    turn_id: f.TurnId | None = None


class Interrupted(Event, tag="interrupted"):
    """The user (or a tool, or the app) cut the agent short."""

    source: InterruptionSource = "user_speech"
    heard_ms: f.HeardMs | None = None
    turn_id: f.TurnId | None = None
    response_id: f.ResponseId | None = None


class Error(Event, tag="error"):
    """Something failed."""

    message: f.Text
    code: f.Name | None = None
    turn_id: f.TurnId | None = None


class Mark(Event, tag="mark"):
    """Anything that the app wants on the timeline."""

    name: f.Name
    attributes: f.Attributes = {}
    turn_id: f.TurnId | None = None


class SessionStart(Event, tag="session_start"):
    """A page begins: which session its tab had before and did not end, as at a reload."""

    previous_session_id: f.PreviousSession | None = None


class SessionEnd(Event, tag="session_end"):
    """The session is over. `last_seq` is the number of the source's last event, by which a lost tail is seen."""

    reason: f.Name = "user_hangup"
    last_seq: f.LastSeq | None = None


WireEvent = (
    TurnStart
    | TurnComplete
    | ToolCall
    | ToolResult
    | ProviderMessage
    | Transcript
    | UserSpeechStart
    | UserSpeechEnd
    | AgentSpeechStart
    | AgentSpeechEnd
    | ResponseStart
    | ResponseEnd
    | Interrupted
    | Error
    | Mark
    | SessionStart
    | SessionEnd
)


# Facts that only an adapter states: they never travel.


class SessionFacts(Event, tag="session_facts"):
    """What a provider said of the whole session; a later one wins, field by field."""

    provider: str | None = None  # the gen_ai.provider.name: gcp.gemini, gcp.vertex_ai, openai
    provider_session_id: str | None = None
    model: str | None = None
    instructions: str | None = None


class ResponseOutput(Event, tag="response_output"):
    """The first audible or readable output of a response: where latency ends."""

    response_id: str
    turn_id: str


class FalseStart(Event, tag="false_start"):
    """A response that the provider began and dropped, unheard, because the user went on speaking."""

    response_id: str
    turn_id: str


class HistoryItem(Event, tag="history_item"):
    """A message that the app seeded: part of the conversation, no turn."""

    role: Literal["user", "assistant", "system"]
    text: str


Fact = WireEvent | SessionFacts | ResponseOutput | FalseStart | HistoryItem


# Requests


class Clock(Struct):
    """What the sender knows of its clock: add `offset` ms to its times to get the receiver's."""

    offset: Annotated[float, Meta(ge=-(10**13), le=10**13)]
    uncertainty: Annotated[float, Meta(ge=0, le=10**13)] | None = None


class Envelope(Struct):
    """A batch as it arrives: the token can be checked before any event is looked at."""

    events: list[Raw]
    source: f.SourceName | None = None
    token: f.TokenText | None = None
    sent_at: f.Millis | None = None
    clock: Clock | None = None


class NewSession(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What the app's backend says of a session when it makes it; a misspelt field would be missed on every span."""

    session_id: f.SessionId | None = None
    previous_session_id: f.PreviousSession | None = None
    user_id: f.UserId | None = None
    agent_name: f.AgentName | None = None
    provider: f.ProviderName | None = None
    model: f.Model | None = None
    tags: Annotated[list[f.Tag], Meta(max_length=50)] | None = None
    metadata: f.Attributes | None = None
    environment: f.Environment | None = None
    idle_timeout_s: f.IdleTimeout | None = None
    traceparent: f.Traceparent | None = None


class EndRequest(Struct):
    """Why it is over, and (where events had numbers) the number of the last one of the `source`."""

    reason: f.Name = "user_hangup"
    last_seq: f.LastSeq | None = None
    source: f.SourceName | None = None
    token: f.TokenText | None = None


# The log: what was accepted, as it was accepted. Each record is a row of the store.


class Created(Struct, tag="created", tag_field="kind", omit_defaults=True):
    """A session was made, with these properties."""

    session: NewSession


class Accepted(Struct, tag="accepted", tag_field="kind", omit_defaults=True):
    """A batch's accepted events. `refused` are the numbers of those that were not: they are not lost ones."""

    events: list[Raw]
    source: str | None = None
    clock: Clock | None = None
    refused: list[int] = []


class Ended(Struct, tag="ended", tag_field="kind", omit_defaults=True):
    """The app or the page said that the session is over, outside the events."""

    reason: str
    last_seq: int | None = None
    source: str | None = None


Record = Created | Accepted | Ended


class _Numbered(Struct):
    seq: f.Seq | None = None


_envelope: msgspec.json.Decoder[Envelope] = msgspec.json.Decoder(Envelope)
_event: msgspec.json.Decoder[WireEvent] = msgspec.json.Decoder(WireEvent)
_record: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
_numbered = msgspec.json.Decoder(_Numbered)
encode = msgspec.json.Encoder().encode


def plain_envelope(body: bytes) -> Envelope | None:
    """The batch with its events left raw, where it is short and nothing is wrong with it; `decode_envelope` looks
    closer."""
    # A search for one byte is a hundred times as fast as one for two.
    if len(body) > PLAIN_BYTES or (b"\\" in body and b"\\u" in body):
        return None
    try:
        envelope = _envelope.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return envelope if len(envelope.events) <= MAX_EVENTS else None


def decode_envelope(body: bytes) -> Envelope:
    """The batch with its events left raw. Raises Refused with a sentence that names the field."""
    try:
        envelope = decode(body, Envelope)
    except TooDeep:
        envelope = decode(cut_deep(body), Envelope)
    if len(envelope.events) > MAX_EVENTS:
        raise TooMany(f"events: at most {MAX_EVENTS} in a batch, got {len(envelope.events)}")
    return envelope


def check_names(attributes: Mapping[str, object], field: str) -> None:
    """Raises Refused for a reserved name. The log may hold one from before they were refused."""
    for name in attributes:
        if name.startswith(f.RESERVED):
            raise Refused(f"{field}: the name {name!r} is reserved, as all that begin with {', '.join(f.RESERVED)}")


def decode_event(raw: Raw | bytes) -> WireEvent:
    """Raises Refused with a sentence that names the field."""
    try:
        return _event.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(sentence(error, "event")) from None


def decode_record(body: bytes) -> Record:
    """A row of the log. It was checked when it was accepted: an error here is a damaged store."""
    return _record.decode(body)


def seq_of(raw: Raw | bytes) -> int | None:
    """The number of an event that may be refused."""
    try:
        return _numbered.decode(raw).seq
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
