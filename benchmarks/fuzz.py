"""Fuzzing the decoder: any bytes as the bodies of requests, from inflating them to the bytes of the spans.

    python -m benchmarks.fuzz [--inputs 1000000] [--minutes M] [--workers 2]

Two generators: atheris, guided by coverage (`make fuzz` installs it; no lock has it, since nothing else needs it), and
the strategies of `tests/test_fuzz.py`. Each runs in a process of its own, for atheris never returns; what they did lies
in files that outlive them. An input is one or more bodies of one session, apart by RS as in a JSON text sequence.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import importlib.util
import json
import mmap
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_voice import bodies
from otel_voice import events as e
from otel_voice.adapters.allow import ALLOW_LIST
from otel_voice.edge import Rejected, _inflate
from otel_voice.events import MAX_EVENTS
from otel_voice.otlp import Encoder
from otel_voice.receiver import Receiver, Verdict
from otel_voice.session import Session
from tests.facts import everything, frames
from tests.running import SESSION, START_S
from tests.test_fuzz import BATCHES, LARGEST_SPAN, damaged, exchanged, paths

RESULT = Path(__file__).with_suffix(".json")
RS = b"\x1e"
GZIP = b"\x1f\x8b"
# One worker's inputs are short and many, the next one's long.
LARGEST_INPUTS = (1_024, 65_536)
BODIES = 8
# From one body to the next: within the settle time, past it, past the quiet, past what words are waited for.
GAPS_MS = (700.0, 2_500.0, 35_000.0, 11_000.0)
# An input that takes longer is a defect; one that takes very long is one that hangs.
SLOW_MS = 1_000
HANG_S = 30
PROGRESS_S = 10

ENCODER = Encoder({"service.name": "fuzz"}, "0")
# Sorting events asks nothing but the time.
_NOTHING: Any = None
RECEIVER = Receiver(_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, lambda: START_S)

Log = list[tuple[float, e.Record]]


# What holds for every input


def check(data: bytes) -> None:
    """Raises AssertionError, or whatever was raised that the contract does not know."""
    log = list(_log(data))
    # Choices that an input makes by itself, so that it does the same when it is tried again.
    choice = crc32(data) % 16
    capture = choice > 0
    requests = _live(log, capture, looked_at=choice < 6)
    assert requests == _replayed([(at, e.encode(record)) for at, record in log], capture), "a replay differs"
    for request in requests:
        assert len(request) < LARGEST_SPAN, f"a span of {len(request)} bytes"
        ExportTraceServiceRequest.FromString(request)


def _log(data: bytes) -> Iterator[tuple[float, e.Record]]:
    try:
        inflated = _inflate(data) if data.startswith(GZIP) else data
    except Rejected:
        return
    at = START_S * 1000
    for n, body in enumerate(inflated.split(RS)[:BODIES]):
        if (record := _record(body)) is not None:
            yield at, record
        at += GAPS_MS[n % len(GAPS_MS)]


def _record(body: bytes) -> e.Record | None:
    """What the receiver logs of a body, if anything."""
    bodies.tokens_in(body)
    try:
        return _accepted(body)
    except bodies.Refused:
        pass
    try:
        return e.Created(bodies.decode(body, e.NewSession))
    except bodies.Refused:
        pass
    try:
        ending = bodies.decode(body, e.EndRequest)
    except bodies.Refused:
        return None
    return e.Ended(ending.reason, ending.last_seq, ending.source)


def _accepted(body: bytes) -> e.Accepted | None:
    batch, _, rejected = RECEIVER._sort(e.decode_envelope(body))
    e.encode(Verdict(len(batch.events), rejected))
    return batch if batch.events or batch.refused else None


def _live(log: Log, capture: bool, looked_at: bool) -> list[bytes]:
    """The requests of a session that is looked at, and that time passes for, while it goes on."""
    session = Session(SESSION, capture)
    requests = []
    for n, (at, record) in enumerate(log, 1):
        session.apply(record, at)
        # Not each time: it copies the session, and costs as much as all the rest.
        said = session.so_far() if looked_at and n == len(log) else ([], session.summary())
        msgspec.json.encode(said)
        for span in said[0]:
            ENCODER.request(span)
        session.advance(at + GAPS_MS[0] / 2)
        requests += [ENCODER.request(span) for span in session.take()]
    session.advance(float("inf"))
    return requests + [ENCODER.request(span) for span in session.take()]


def _replayed(rows: list[tuple[float, bytes]], capture: bool) -> list[bytes]:
    session = Session(SESSION, capture)
    for at, row in rows:
        session.apply(e.decode_record(row), at)
    session.advance(float("inf"))
    return [ENCODER.request(span) for span in session.take()]


# What a worker has done


class Tally:
    """Checks inputs and keeps, in files: how many, the slowest, and the one that failed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._slowest_s = folder, 0.0
        with (folder / "count").open("r+b") as file:
            self._count = mmap.mmap(file.fileno(), 8)
        self._inputs = 0

    def __call__(self, data: bytes) -> None:
        started = time.process_time()
        try:
            check(data)
        except BaseException:
            (self._folder / "failed").write_bytes(data)
            raise
        took = time.process_time() - started
        if took > self._slowest_s:
            self._slowest_s = took
            (self._folder / "slowest").write_bytes(data)
        self._inputs += 1
        self._count[:8] = self._inputs.to_bytes(8, "little")


# Seeds and mutations


def _batch(events: list[Any], **envelope: Any) -> bytes:
    return json.dumps({"source": "page", **envelope, "events": events}).encode()


def _frames_of(provider: str, path: Path) -> list[Any]:
    return [
        {"type": "provider_message", "provider": provider, "dir": frame["dir"], "message": frame["message"], "seq": n}
        for n, frame in enumerate(frames(path))
    ]


def _typed_events() -> list[Any]:
    at = START_S * 1000
    return [
        {"type": "turn_start", "turn_id": "t1", "ts": at},
        {"type": "user_speech_start", "measured_by": "vad", "item_id": "i1", "ts": at + 10},
        {"type": "user_speech_end", "item_id": "i1", "ts": at + 900},
        {"type": "transcript", "role": "user", "text": "How is Rome?", "item_id": "i1", "final": True},
        {"type": "response_start", "response_id": "r1", "model": "m"},
        {"type": "agent_speech_start", "response_id": "r1", "ts": at + 1200},
        {"type": "tool_call", "call_id": "c1", "name": "get_weather", "arguments": {"city": "Rome"}, "turn_id": "t1"},
        {"type": "tool_result", "call_id": "c1", "result": {"sky": "clear"}},
        {"type": "tool_result", "call_id": "c2", "error": "none", "cancelled": True},
        {"type": "transcript", "role": "agent", "text": "Clear.", "response_id": "r1", "typed": True},
        {"type": "agent_speech_end", "response_id": "r1", "heard_ms": 700, "ts": at + 2500},
        {"type": "response_end", "response_id": "r1", "finish_reason": "stop", "usage": {"input_tokens": 7}},
        {"type": "interrupted", "source": "user_speech", "heard_ms": 5, "turn_id": "t1"},
        {"type": "turn_complete", "turn_id": "t1", "user_text": "a", "agent_text": "b", "end_reason": "completed"},
        {"type": "error", "message": "gone", "code": "e1"},
        {"type": "mark", "name": "here", "attributes": {"a": 1, "b": "c", "d": 0.5, "e": True, "f": None}},
        {"type": "session_end", "reason": "page_closed", "last_seq": 16},
    ]


OTHERS = [
    b'{"user_id": "u", "agent_name": "a", "tags": ["t"], "metadata": {"k": 1}, "provider": "openai-realtime"}',
    b'{"reason": "user_hangup", "last_seq": 3, "source": "page", "token": "x.y.z"}',
    b'{"events": [{"type": "mark", "name": "\\ud83d"}], "clock": {"offset": 1500, "uncertainty": 2}}',
    b'{"events": [' + b"[" * 200 + b"]" * 200 + b', {"type": "turn_start"}, 5, {"seq": 4}]}',
    b'{"events": {}, "source": 5}',
    b'{"events": [{"type": "tool_call", "call_id": "c", "name": "n", "arguments": ' + b"9" * 400 + b"}]}",
    b"\xef\xbb\xbf{}",
    b'"',
]


def seeds() -> list[bytes]:
    typed = [{**event, "seq": n} for n, event in enumerate(_typed_events())]
    found = [_batch(typed), *[_batch([event]) for event in typed], *OTHERS]
    found.append(RS.join([_batch(typed[n : n + 4]) for n in range(0, len(typed), 4)]))
    for provider, path in everything():
        events = _frames_of(provider, path)
        parts = [_batch(events[n : n + 4]) for n in range(0, len(events), 4)]
        found += [*parts, *[RS.join(pair) for pair in pairwise(parts)]]
    return [*found, gzip.compress(found[0]), gzip.compress(found[0])[:-9]]


def _full() -> Iterator[bytes]:
    """Inputs of the largest size, which mutation seldom comes to: one event again and again."""
    frames_ = [event for provider, path in everything() for event in _frames_of(provider, path)[:4]]
    for event in [*_typed_events(), *frames_]:
        n = min(MAX_EVENTS, LARGEST_INPUTS[-1] // len(json.dumps({**event, "seq": 999})))
        yield _batch([{**event, "seq": seq} for seq in range(n)])


def _words(value: Any) -> set[str]:
    """Every key and value of an allow-list, or of events: what a mutation may put in."""
    if isinstance(value, dict):
        return {word for key, inner in value.items() for word in {key} | _words(inner)}
    if isinstance(value, list):
        return {word for inner in value for word in _words(inner)}
    return {value} if isinstance(value, str) else set()


def _dictionary() -> str:
    words = _words([ALLOW_LIST, _typed_events(), *e.WireEvent.__args__[0].__struct_fields__])
    quoted = [json.dumps(word) for word in sorted(words) if word.isascii()]
    tokens = [*quoted, "null", "true", "{}", "[]", "1e400", "-0.0", "9" * 30, '"seq":', '"ts":1790000000000', "\\ud83d"]
    escaped = [token.replace("\\", "\\\\").replace('"', '\\"') for token in tokens]
    return "\n".join([*[f'"{token}"' for token in escaped], '"\\x1e"', '"\\xff"'])


ODD: list[Any] = [None, True, 0, -1, 2**53 + 1, 10**30, 0.5, 1e308, "", "page:1", "9" * 30, "a" * 300, "\x00", [], {}]


class Mutator:
    """Exchanges one value of a body that is JSON, where libFuzzer exchanges bytes and soon has none."""

    def __init__(self, seeds: list[bytes]) -> None:
        self._values = [*ODD, *ODD, *_typed_events(), *sorted(_words(_typed_events()))]
        self._values += [event for provider, path in everything() for event in _frames_of(provider, path)]
        self._seeds = [seed for seed in seeds if not seed.startswith(GZIP)]

    def __call__(self, data: bytes, chance: random.Random) -> bytes | None:
        """None where it has nothing to exchange."""
        parts = data.split(RS)
        n = chance.randrange(len(parts))
        try:
            value = json.loads(parts[n])
            parts[n] = json.dumps(self._exchanged(value, chance), ensure_ascii=chance.random() < 0.5).encode()
        except (ValueError, RecursionError):
            return None
        if chance.random() < 0.05:
            parts.append(chance.choice(self._seeds))
        mutated = RS.join(parts)
        return gzip.compress(mutated, 1) if chance.random() < 0.01 else mutated

    def _exchanged(self, value: Any, chance: random.Random) -> Any:
        for _ in range(chance.choice((1, 1, 2, 4))):
            if isinstance(value, dict):
                path = chance.choice(paths(value))
                value = exchanged(value, path, self._by(value, path, chance))
        return value

    def _by(self, value: Any, path: tuple[Any, ...], chance: random.Random) -> Any:
        for key in path:
            value = value[key]
        if isinstance(value, list):
            return chance.choice([[*value, chance.choice(self._values)], value[1:], value[::-1], value * 2])
        if isinstance(value, dict) and value and chance.random() < 0.5:
            gone = chance.choice(list(value))
            return {key: inner for key, inner in value.items() if key != gone}
        return chance.choice(self._values)


# The generators, each in a process of its own


def by_atheris(folder: Path, inputs: int, largest: int) -> NoReturn:
    """Called by a process that imported this under `atheris.instrument_imports`; ends it."""
    import atheris  # type: ignore[import-untyped, unused-ignore]

    fitting = [seed for seed in seeds() if len(seed) <= largest]
    mutator = Mutator(fitting)
    corpus = _corpus(folder, fitting)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        mutated = mutator(data, chance) if chance.random() < 0.6 else None
        if mutated is None or len(mutated) > max_size:
            mutated = atheris.Mutate(data, max_size)
        return mutated

    flags = [f"-runs={inputs}", f"-max_len={largest}", f"-timeout={HANG_S}", f"-dict={folder / 'words'}"]
    flags += [f"-artifact_prefix={folder}/artifact-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], Tally(folder), custom_mutator=mutate)
    atheris.Fuzz()
    sys.exit()


def _corpus(folder: Path, seeds: list[bytes]) -> Path:
    corpus = folder / "corpus"
    corpus.mkdir()
    for n, seed in enumerate(seeds):
        (corpus / f"seed-{n}").write_bytes(seed)
    (folder / "words").write_text(_dictionary())
    return corpus


@st.composite
def _inputs(draw: Any) -> bytes:
    batches = st.lists(BATCHES.map(lambda batch: json.dumps(batch).encode()), min_size=1, max_size=3).map(RS.join)
    data = draw(st.one_of(batches, batches, damaged(), st.binary(max_size=200)))
    return gzip.compress(data) if draw(st.integers(0, 9)) == 0 else data


def by_hypothesis(folder: Path, inputs: int) -> None:
    tally = Tally(folder)

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(_inputs())
    def every(data: bytes) -> None:
        # One that hangs ends the process.
        signal.alarm(HANG_S)
        tally(data)
        signal.alarm(0)

    every()


class Worker:
    """A generator's process and the folder in which it says what it has done."""

    def __init__(self, folder: Path, inputs: int, largest: int | None = None) -> None:
        self.generator, self.folder = "atheris" if largest else "hypothesis", folder
        folder.mkdir()
        (folder / "count").write_bytes(bytes(8))
        code = ["from pathlib import Path"]
        if largest:
            code += ["import atheris", "with atheris.instrument_imports(['otel_voice']): from benchmarks import fuzz"]
            code += [f"fuzz.by_atheris(Path({str(folder)!r}), {inputs}, {largest})"]
        else:
            code += ["from benchmarks import fuzz", f"fuzz.by_hypothesis(Path({str(folder)!r}), {inputs})"]
        self.said = (folder / "said").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "\n".join(code)], stdout=self.said, stderr=subprocess.STDOUT
        )

    @property
    def inputs(self) -> int:
        return int.from_bytes((self.folder / "count").read_bytes(), "little")

    @property
    def failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def failure(self) -> str:
        """The input as base64, and the traceback of a run of it here; where it hangs, what the worker said last."""
        said = (self.folder / "said").read_text(errors="replace")[-4000:]
        raised, hung = [*self.folder.glob("failed")], [*self.folder.glob("artifact-*")]
        if not raised and not hung:
            return f"{self.generator}: ended with {self.process.returncode}\n{said}"
        data = (raised or hung)[0].read_bytes()
        traceback_ = _traceback_of(data) if raised else said
        return f"{self.generator}, an input of {len(data)} bytes:\n{base64.b64encode(data).decode()}\n{traceback_}"


# All of it


def _traceback_of(data: bytes) -> str:
    try:
        check(data)
    except Exception:
        return traceback.format_exc()
    return "it does not fail when it is tried again"


def _time_of(data: bytes) -> float:
    """Milliseconds for a run here, where nothing is instrumented; the least of three, for others use the machine."""
    took = []
    for _ in range(3):
        started = time.process_time()
        check(data)
        took.append((time.process_time() - started) * 1000)
    return min(took)


def _slowest(workers: list[Worker]) -> tuple[float, bytes]:
    found = [path.read_bytes() for worker in workers for path in worker.folder.glob("slowest")]
    return max((_time_of(data), data) for data in [*found, *_full()])


def _wait(workers: list[Worker], inputs: int, seconds: float) -> None:
    """Until they have made so many together, one has failed, or the time is up."""
    started = said = now = time.monotonic()
    while sum(worker.inputs for worker in workers) < inputs and now - started < seconds:
        now = time.monotonic()
        if any(worker.failed for worker in workers):
            return
        if now - said > PROGRESS_S:
            said = now
            counts = "  ".join(f"{worker.generator} {worker.inputs:,}" for worker in workers)
            print(f"{now - started:6.0f} s  {counts}", file=sys.stderr, flush=True)
        time.sleep(0.2)


def _run(folder: Path, inputs: int, seconds: float, guided: int) -> int:
    started = time.monotonic()
    sizes = [None, *(LARGEST_INPUTS[n % 2] for n in range(guided))]
    workers = [Worker(folder / str(n), inputs, largest) for n, largest in enumerate(sizes)]
    try:
        _wait(workers, inputs, seconds)
        failures = [worker.failure() for worker in workers if worker.failed]
    finally:
        for worker in workers:
            worker.stop()
    return _report(workers, failures, time.monotonic() - started)


def _report(workers: list[Worker], failures: list[str], seconds: float) -> int:
    counts = {
        name: sum(worker.inputs for worker in workers if worker.generator == name) for name in ("atheris", "hypothesis")
    }
    try:
        slowest, data = _slowest(workers)
    except Exception:
        slowest, data = 0.0, b""
        failures.append(traceback.format_exc())
    if slowest > SLOW_MS:
        failures.append(f"an input of {len(data)} bytes took {slowest:.0f} ms:\n{base64.b64encode(data).decode()}")
    if failures:
        print(f"after {counts}:", *failures, sep="\n\n")
        return 1
    found = {**counts, "failures": 0, "slowest_ms": round(slowest, 1), "seconds": round(seconds)}
    RESULT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(json.dumps(found, sort_keys=True), f"the slowest has {len(data)} bytes")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description="Fuzzes the decoder.")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, however many inputs it were")
    parser.add_argument("--workers", type=int, default=2, help="processes with atheris")
    parser.add_argument("--input", help="check this one, in base64, and nothing else")
    args = parser.parse_args()
    if args.input:
        check(base64.b64decode(args.input))
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is missing: pip install atheris, into a venv of its own if need be")
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), args.inputs, args.minutes * 60, args.workers)


if __name__ == "__main__":
    sys.exit(main())
