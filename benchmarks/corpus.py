"""A corpus: the requests that a load sends, byte by byte, in a file, and what is in them.

Sessions as a page would send them: sixty turns of five events and an end. Texts are words at random; each turn is as
long as the others, so an event has 372 bytes on average.
"""

from __future__ import annotations

import random
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from otel_voice.tokens import Tokens

TOKEN_KEY = "a-signing-key-that-only-benchmarks-know"
TURNS = 60
TURN_EVENTS = 5
SESSION_EVENTS = TURNS * TURN_EVENTS + 1
EVENT_BYTES = 372
EVENT_MS = 600
TEMPLATES = 64
TEXT = """
a table for two by the window at eight please could you tell me what the weather will be like in Lisbon tomorrow and
whether there is a room with a view of the river free for three nights from Friday on I would like to change my order
of last week because the blue one was too small thank you that is very kind of you let me see what I can do for you
there are two left one is near the station the other a little quieter and has breakfast included until eleven
"""
WORDS = TEXT.split()

Template = tuple[bytes, ...]


@dataclass(frozen=True)
class Corpus:
    path: Path
    batch: int
    connections: int
    requests: int
    events: int
    sessions: int
    turns: int
    tools: int

    @property
    def spans(self) -> int:
        """What otel_voice makes of it: each turn with its model response, each tool call, and each session's root."""
        return 2 * self.turns + self.tools + self.sessions


def make(
    path: Path,
    requests: int = 150_000,
    batch: int = 1,
    connections: int = 64,
    live: int = 1,
    seed: int | None = None,
) -> Corpus:
    """About so many requests of `batch` events, over all connections; each has `live` sessions at a time."""
    chance = random.Random(seed)
    posts = max(1, SESSION_EVENTS // batch)
    at_once = connections * live
    rounds = max(1, round(requests / (at_once * posts)))
    templates = [template(chance) for _ in range(TEMPLATES)]
    tokens = Tokens(TOKEN_KEY.encode())
    count = 0
    with path.open("wb") as file:
        for _ in range(rounds):
            # Side by side in the file as they are on the wire: what is due at a rate is spread over the connections.
            sessions = [list(session(tokens, templates, batch, chance)) for _ in range(at_once)]
            for number, request in enumerate(chain.from_iterable(zip(*sessions, strict=True))):
                file.write(struct.pack("<II", number % connections, len(request)) + request)
                count += 1
    made = rounds * at_once
    return Corpus(path, batch, connections, count, made * SESSION_EVENTS, made, made * TURNS, made * TURNS)


def session(tokens: Tokens, templates: Sequence[Template], batch: int, chance: random.Random) -> Iterator[bytes]:
    """A session's requests in order."""
    now = time.time()
    session_id, source = uuid.UUID(int=chance.getrandbits(128), version=4), chance.randbytes(8).hex()
    token = tokens.mint(str(session_id), now + 24 * 3600)
    head = (
        f"POST /v1/sessions/{session_id}/events HTTP/1.1\r\nHost: 127.0.0.1:8770\r\nAccept: */*\r\n"
        "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: "
    ).encode()
    opening = f'{{"source":"{source}","token":"{token}","sent_at":'.encode()
    began = int(now * 1000)
    events = list(session_events(templates, began, chance))
    for first, last in posts_of(batch):
        sent_at = began + last * EVENT_MS
        body = b'%b%d,"events":[%b]}' % (opening, sent_at, b",".join(events[first:last]))
        yield b"%b%d\r\n\r\n%b" % (head, len(body), body)


def posts_of(batch: int) -> Iterator[tuple[int, int]]:
    """Which events go together. The end travels with the last turn, unless each event travels alone."""
    starts = range(0, max(1, SESSION_EVENTS - batch + 1), batch)
    for first in starts:
        yield first, SESSION_EVENTS if first == starts[-1] else first + batch


def session_events(templates: Sequence[Template], began: int, chance: random.Random) -> Iterator[bytes]:
    seq = 0
    for turn in range(TURNS):
        for event in chance.choice(templates):
            yield event % (turn, seq, began + seq * EVENT_MS)
            seq += 1
    yield b'{"type":"session_end","reason":"user_hangup","last_seq":%d,"seq":%d,"ts":%d}' % (
        seq,
        seq,
        began + seq * EVENT_MS,
    )


def template(chance: random.Random) -> Template:
    """The five events of a turn; the tool's result takes what the others leave."""
    told = words(chance, chance.randint(60, 220))
    asked = words(chance, chance.randint(60, 140))
    said = words(chance, chance.randint(150, 450))
    tokens_in, tokens_out = chance.randint(100, 4000), chance.randint(20, 600)
    numbered = ',"seq":%d,"ts":%d}'
    head = [
        '{"type":"turn_start","turn_id":"turn_%d"',
        f'{{"type":"transcript","turn_id":"turn_%d","role":"user","final":true,"text":"{told}"',
        '{"type":"tool_call","call_id":"call_%d","name":"find_reservation",'
        f'"arguments":{{"city":"Lisbon","guests":{chance.randint(1, 8)},"wishes":"{asked}"}}',
        '{"type":"tool_result","call_id":"call_%d","result":{"found":true,"offers":["',
        f'{{"type":"turn_complete","turn_id":"turn_%d","agent_text":"{said}","model":"gpt-realtime",'
        f'"usage":{{"input_tokens":{tokens_in},"output_tokens":{tokens_out},'
        f'"input_audio_tokens":{tokens_in // 2},"output_audio_tokens":{tokens_out // 2}}}',
    ]
    # As a number's place in a template is shorter than the numbers: turn and seq by one digit each, ts by eleven.
    taken = sum(len(event) + len(numbered) + 11 for event in head) + len('"]}')
    head[3] += words(chance, TURN_EVENTS * EVENT_BYTES - taken) + '"]}'
    return tuple((event + numbered).encode() for event in head)


def words(chance: random.Random, length: int) -> str:
    text = " ".join(chance.choices(WORDS, k=length // 2))
    return text[:length].ljust(length, ".")
