"""Fields: what a value of the wire contract may be, and what it says; constraints are held by the decoder."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=262_144)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

# Of an event

Seq = Annotated[int, Meta(ge=0, le=2**53, description="Its number among the events of its source, from 0.")]
# A sender's clock may be wrong by decades and say so: only its corrected times are held to the calendar.
Millis = Annotated[float, Meta(ge=0, le=10**13, description="When, in ms since the epoch by the sender's clock.")]
TurnId = Annotated[Name, Meta(description="The turn, by a name that is the same in all that is told of it.")]
CallId = Annotated[Name, Meta(description="The tool call, by the provider's id of it.")]
ItemId = Annotated[Name, Meta(description="The item of the conversation that it is a part of.")]
ResponseId = Annotated[Name, Meta(description="The model's response, by the provider's id of it.")]
Model = Annotated[Name, Meta(description="The model, as the provider names it.")]
MeasuredBy = Annotated[Name, Meta(description="How it was measured, as `provider_vad`, `energy` or `playback`.")]
HeardMs = Annotated[float, Meta(ge=0, le=86_400_000, description="For how many ms of it the user heard the agent.")]
# No call has more events: a claim of more would only make up losses.
LastSeq = Annotated[int, Meta(ge=0, le=10**7, description="The number of the source's last event.")]

# What these begin with is written by the mapping or read by a backend.
RESERVED = ("langfuse.", "gen_ai.", "voice.", "session.", "user.", "otel.")
# Looked at apart from the decoding, for the sentence.
AttributeName = Annotated[Name, Meta(extra_json_schema={"pattern": f"^(?!{'|'.join(map(re.escape, RESERVED))})"})]
# OpenTelemetry's own limit on a span's attributes; the lengths keep a span well under what a gRPC receiver takes.
Attributes = Annotated[
    dict[AttributeName, Annotated[str, Meta(max_length=4_096)] | bool | int | float | None],
    Meta(
        max_length=128,
        description=f"What begins with {', '.join(f'`{each}`' for each in RESERVED)} is refused.",
    ),
]

# Of a batch

SourceName = Annotated[
    str, Meta(min_length=1, max_length=128, description="Who numbers its events: a random name for each page load.")
]
TokenText = Annotated[str, Meta(max_length=4096, description="The session's token, where no header carries it.")]

# Of a session

SessionId = Annotated[str, Meta(description="A UUID, or 1 to 128 characters of [A-Za-z0-9._:-]; else one is made.")]
PreviousSession = Annotated[str, Meta(max_length=128, description="The session that this tab had before a reload.")]
UserId = Annotated[str, Meta(max_length=200, description="Who speaks.")]
AgentName = Annotated[Name, Meta(description="Which agent answers.")]
ProviderName = Annotated[Name, Meta(description="Whose model it is, as `openai`; else its messages tell.")]
Tag = Annotated[str, Meta(max_length=200)]
# What Langfuse takes; whatever else becomes `default`.
ENVIRONMENT = r"^(?!langfuse)[a-z0-9_-]{1,40}\Z"
Environment = Annotated[str, Meta(pattern=ENVIRONMENT, description="As `production`; Langfuse keeps them apart.")]
IdleTimeout = Annotated[
    float, Meta(ge=1, le=86_400, description="It ends by itself after so many seconds of nothing; by default 1800.")
]
Traceparent = Annotated[
    str,
    Meta(
        pattern=r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z",
        description="The caller's span, by W3C Trace Context: the session's root links to it.",
    ),
]
