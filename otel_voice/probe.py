"""Probe: one span sent to the next hop and read back from the backends, and what their answers tell of the clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct, structs

from otel_voice import __version__
from otel_voice import semconv as s
from otel_voice.exporter import Answer, Verdict, client, http_date, post
from otel_voice.findings import Finding, NoAnswer, as_no_answer, get, look, mend, ok
from otel_voice.otlp import Encoder
from otel_voice.settings import BadSetting, Export, Settings, export
from otel_voice.spans import Span, root_id

PROBE = "otel_voice doctor"
# Langfuse lists environments apart: the probes are not among the calls.
ENVIRONMENT = "otel-voice-doctor"
JAEGER_URL = "OTEL_VOICE_JAEGER_URL"
LANGFUSE_PATH = "/api/public/otel/v1/traces"
# How systems say that a name has no address.
NOT_RESOLVED = ("Name or service not known", "No address associated", "name resolution", "nodename nor servname")
# Dates in answers are whole seconds.
CLOCK_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 4.0


class Limits(Struct, frozen=True):
    """Seconds: for one answer, and for the probe span's way to where it can be read back."""

    answer_s: float = 5.0
    read_back_s: float = 30.0


class Heard:
    """What the heads of answers say beside the verdict: the last status and, by host, by how many seconds our clock
    is ahead of theirs, and within how many that is no difference."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.status: int | None = None
        self.ahead: dict[str, tuple[float, float]] = {}
        self._sent_at = 0.0

    def client(self, export: Export) -> httpx.AsyncClient:
        http = client(export)
        http.event_hooks = {"request": [self._sent], "response": [self._answered]}
        return http

    async def _sent(self, _: httpx.Request) -> None:
        self._sent_at = self.clock()

    async def _answered(self, response: httpx.Response) -> None:
        self.status = response.status_code
        now = self.clock()
        said = http_date(response.headers.get("date", ""))
        if said is None:
            return
        # A date has lost half a second on average.
        ahead = (self._sent_at + now) / 2 - (said + 0.5)
        self.ahead[response.url.netloc.decode("ascii")] = (ahead, CLOCK_S + (now - self._sent_at) / 2)


def _probe(settings: Settings, trace_id: str, now: float) -> bytes:
    """A span that is its own root: else Langfuse would not list it."""
    nanos = int(now * 1e9)
    span = Span(PROBE, trace_id, root_id(trace_id), nanos - 1_000_000, nanos)
    span.attributes = {s.TRACE_NAME: PROBE, s.ENVIRONMENT: ENVIRONMENT}
    return Encoder(settings.resource, __version__).request(span)


async def next_hop(settings: Settings, trace_id: str, heard: Heard, answer_s: float) -> tuple[bool, Finding]:
    """Whether it took the probe span."""
    if settings.export is None:
        if settings.export_nothing:
            return False, ok("next hop", "none is wanted: OTEL_TRACES_EXPORTER is none")
        ways = "set OTEL_EXPORTER_OTLP_ENDPOINT, or LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
        return False, look("next hop", f"none is set, so spans wait in the store: {ways}")
    hop = structs.replace(settings.export, timeout=min(settings.export.timeout, answer_s))
    began = time.monotonic()
    async with heard.client(hop) as http:
        answer = await post(http, hop, _probe(settings, trace_id, heard.clock()))
    if answer.verdict is Verdict.TAKEN:
        return True, ok("next hop", f"{hop.url} took a probe span in {(time.monotonic() - began) * 1000:.0f} ms")
    hint = _hint(answer, heard.status, hop.url)
    return False, mend("next hop", f"{hop.url} did not take a probe span ({answer.reason}): {hint}")


def _hint(answer: Answer, status: int | None, url: str) -> str:
    if answer.verdict is Verdict.LATE:
        return "what listens there is too slow, or does not speak OTLP over HTTP (4318 is its port, 4317 that of gRPC)"
    if status is None and "SSL" in answer.reason:
        return "does it speak https, and does OTEL_EXPORTER_OTLP_CERTIFICATE name the authority of its certificate?"
    if status is None and any(said in answer.reason for said in NOT_RESOLVED):
        return f"no name server knows {urlsplit(url).hostname}: is the address right, and has this machine a network?"
    if status is None and url.endswith(LANGFUSE_PATH):
        return "is LANGFUSE_BASE_URL right, and is Langfuse up?"
    if status is None:
        return f"is the collector running at {urlsplit(url).netloc}, and is that its port for HTTP (4318, not 4317)?"
    if status in (401, 403):
        return "the keys are wrong: see OTEL_EXPORTER_OTLP_HEADERS, or LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
    if answer.verdict is Verdict.MISCONFIGURED:
        return (
            "the address is wrong: a collector's OTEL_EXPORTER_OTLP_ENDPOINT is like http://127.0.0.1:4318, without "
            "/v1/traces; Langfuse needs LANGFUSE_BASE_URL and no OTLP endpoint, or an "
            f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT that ends in {LANGFUSE_PATH}"
        )
    if answer.verdict is Verdict.SPLIT:
        return "it refuses a span that is well formed: its own log says why"
    return "it takes nothing now, and its own log says why; spans wait in the store and are sent again"


# The backends


async def backends(
    env: Mapping[str, str], trace_id: str | None, limits: Limits, waiting: Callable[[str], None], heard: Heard
) -> AsyncIterator[Finding]:
    """Langfuse's keys; and the probe span, read back from wherever it can be."""
    places: dict[str, Has] = {}
    async with contextlib.AsyncExitStack() as stack:
        waiting("asking the backend")
        langfuse, known = await _langfuse(env, limits.answer_s, heard, stack)
        if known is not None:
            yield known
        if langfuse is not None:
            places["Langfuse"] = langfuse.has
        if url := env.get(JAEGER_URL):
            places["Jaeger"] = partial(_jaeger_has, url, limits.answer_s)
        if known is not None and not places:
            yield look("read back", "not asked: Langfuse could not be asked")
            return
        if trace_id is not None and places:
            waiting(f"waiting up to {limits.read_back_s:g} s for the probe span in {' and '.join(places)}")
        for finding in await _read_back(places, trace_id, limits.read_back_s):
            yield finding


class _Langfuse:
    """Langfuse by its package's API client, which has nothing to do with OpenTelemetry's global provider."""

    def __init__(self, export: Export, env: Mapping[str, str], http: httpx.AsyncClient) -> None:
        # Slow to import, and only needed here.
        from langfuse.api import AsyncLangfuseAPI

        self.url, self._answer_s = export.url.removesuffix(LANGFUSE_PATH), export.timeout
        public, secret = env["LANGFUSE_PUBLIC_KEY"], env["LANGFUSE_SECRET_KEY"]
        self._api = AsyncLangfuseAPI(base_url=self.url, username=public, password=secret, httpx_client=http)

    async def projects(self) -> list[str]:
        """The names of those that the keys are of. Raises NoAnswer."""
        async with self._asking():
            found = await self._api.projects.get(request_options={"max_retries": 0})
        return [project.name for project in found.data]

    async def has(self, trace_id: str) -> bool:
        """Raises NoAnswer."""
        async with self._asking():
            found = await self._api.observations.get_many(trace_id=trace_id, request_options={"max_retries": 0})
        return bool(found.data)

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        from langfuse.api.core.api_error import ApiError

        try:
            with as_no_answer(self._answer_s):
                async with asyncio.timeout(self._answer_s):
                    yield
        except ApiError as error:
            raise NoAnswer(f"{error.status_code} {str(error.body)[:200]!r}", error.status_code) from error
        except ValueError as error:  # pydantic's
            raise NoAnswer("the answer is not Langfuse's") from error


def langfuse_export(env: Mapping[str, str]) -> Export | None:
    """By the keys alone, wherever spans go. Raises BadSetting."""
    return export({name: value for name, value in env.items() if name.startswith("LANGFUSE_")})


async def _langfuse(
    env: Mapping[str, str], answer_s: float, heard: Heard, stack: contextlib.AsyncExitStack
) -> tuple[_Langfuse | None, Finding | None]:
    """Nobody to ask where there are no keys or no good ones."""
    try:
        own = langfuse_export(env)
    except BadSetting as error:
        return None, mend("langfuse", str(error))
    if own is None:
        return None, None
    own = structs.replace(own, timeout=answer_s)
    langfuse = _Langfuse(own, env, await stack.enter_async_context(heard.client(own)))
    try:
        names = ", ".join(await langfuse.projects())
    except NoAnswer as error:
        if error.status in (401, 403):
            pair = "are LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY a pair, and of the region of LANGFUSE_BASE_URL?"
            return None, mend("langfuse", f"{langfuse.url} refuses the keys ({error}): {pair}")
        address = "is LANGFUSE_BASE_URL right, and is Langfuse up?"
        return None, mend("langfuse", f"{langfuse.url} does not say whether the keys are good ({error}): {address}")
    return langfuse, ok("langfuse", f"{langfuse.url} takes the keys, which are of the project {names}")


class _Traces(Struct):
    data: list[msgspec.Raw] | None = None


async def _jaeger_has(url: str, answer_s: float, trace_id: str) -> bool:
    """Raises NoAnswer."""
    response = await get(f"{url.rstrip('/')}/api/traces/{trace_id}", answer_s)
    if response.status_code not in (200, 404):
        raise NoAnswer(f"{response.status_code} {response.text[:200]!r}", response.status_code)
    try:
        return bool(msgspec.json.decode(response.content, type=_Traces).data)
    except msgspec.DecodeError:
        raise NoAnswer(f"what {url} answers is not Jaeger's query API", response.status_code) from None


Has = Callable[[str], Awaitable[bool]]


async def _read_back(places: Mapping[str, Has], trace_id: str | None, within_s: float) -> list[Finding]:
    if trace_id is None:
        return [look("read back", "not asked: no probe span is on its way")]
    if not places:
        ways = f"set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY, or {JAEGER_URL} (as http://127.0.0.1:16686)"
        return [look("read back", f"trace {trace_id} was sent, and there is nothing to read it back from: {ways}")]
    return list(await asyncio.gather(*(_found(name, has, trace_id, within_s) for name, has in places.items())))


async def _found(name: str, has: Has, trace_id: str, within_s: float) -> Finding:
    """Langfuse takes spans in asynchronously, and a collector has a queue: asked again until it is there."""
    began, pause, said = time.monotonic(), FIRST_PAUSE_S, "it is not there"
    while True:
        try:
            if await has(trace_id):
                return ok("read back", f"trace {trace_id} is in {name}, after {time.monotonic() - began:.1f} s")
            said = "it is not there"
        except NoAnswer as error:
            said = str(error)
            if error.is_final:
                break
        left = within_s - (time.monotonic() - began)
        if left <= 0:
            break
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_S)
    why = f"does a collector on the way send to {name} (its log says so), or is {name} itself behind?"
    if said != "it is not there":
        why = f"is the address of {name} right (its API's, not that for spans), and is it up?"
    waited = time.monotonic() - began
    return mend("read back", f"trace {trace_id} was not found in {name} within {waited:.1f} s ({said}): {why}")


def clock_of(heard: Heard) -> Finding:
    if not heard.ahead:
        return look("clock", "not asked: no answer had a date")
    host = max(heard.ahead, key=lambda host: abs(heard.ahead[host][0]) - heard.ahead[host][1])
    ahead, sure = heard.ahead[host]
    if abs(ahead) <= sure:
        return ok("clock", f"agrees with that of {' and '.join(heard.ahead)}")
    text = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of {host}"
    return look("clock", f"{text}: times in traces are off by as much; set the clock (NTP)")
