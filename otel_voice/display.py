"""What the terminal shows: tables, span trees, progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from otel_voice import otlp
from otel_voice import semconv as s
from otel_voice.columns import GAP, Column, beginnings, fitted
from otel_voice.findings import Finding
from otel_voice.links import Links
from otel_voice.spans import Span
from otel_voice.store import DeadLetter, SessionRow
from otel_voice.summary import Summary

TEXT_SHOWN = 100
PIPED_WIDTH = 10_000
# From here on there is room for whole ids.
WIDE = 120
INTERRUPTED = {"user_speech": "the user", "tool_response": "a tool's answer", "programmatic": "the app"}
STATES = {"ok": "green", "look": "yellow", "mend": "red"}


def json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def summary(row: SessionRow) -> Summary:
    return msgspec.json.decode(row.summary, type=Summary)


def duration(ms: float) -> str:
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentence(of: Summary) -> str:
    """A session in one line."""
    parts = [counted(of.turn_count, "turn"), counted(of.tool_call_count, "tool call")]
    if of.interruption_count:
        parts.append(counted(of.interruption_count, "interruption"))
    if of.events_lost:
        parts.append(f"{counted(of.events_lost, 'event')} lost")
    return f"session {of.session_id}: {', '.join(parts)} in {duration(of.duration_ms)}"


@contextlib.contextmanager
def progress(total: int, doing: str, things: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(things), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda count: bar.advance(task, count)


def table(summaries: list[Summary]) -> None:
    console = _console()
    if not summaries:
        console.print("no sessions yet")
        return
    columns = _columns(summaries)
    fitting = fitted(columns, console.width)
    shown = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in fitting:
        shown.add_column(column.name, no_wrap=True)
    for cells in zip(*(column.cells for column in fitting), strict=True):
        shown.add_row(*map(Text, cells))
    console.print(shown)
    names = {column.name for column in fitting}
    if missing := [column.name for column in columns if column.name not in names and any(column.cells)]:
        console.print(Text(f"no room for: {'; '.join(missing)}. --json has all", style="dim"))


def _columns(summaries: list[Summary]) -> list[Column]:
    zone, ids = _zone(), [of.session_id for of in summaries]
    started = [_moment(of.started_at, zone) for of in summaries]
    cells = zip(*(map(_printable, _cells(of)) for of in summaries), strict=True)
    names = ("user", "agent, model", "length", "turns", "interr.", "tools", "p50, p95", "end", "lost")
    return [
        Column(f"started ({zone.tzname(None)})", started, [text[: -len(":00")] for text in started]),
        Column("session", ids, beginnings(ids)),
        *(Column(name, values) for name, values in zip(names, cells, strict=True)),
    ]


def _cells(of: Summary) -> list[str]:
    latency = of.user_bot_latency_ms
    errors = f" ({of.tool_error_count} failed)" if of.tool_error_count else ""
    return [
        of.user_id or "",
        ", ".join(part for part in (of.agent_name, of.model) if part),
        duration(of.duration_ms),
        str(of.turn_count),
        str(of.interruption_count or ""),
        f"{of.tool_call_count}{errors}" if of.tool_call_count else "",
        ", ".join(duration(ms) for ms in (latency.p50, latency.p95) if ms is not None),
        of.end_reason or of.status,
        str(of.events_lost or ""),
    ]


class Letter:
    """A dead letter as it is shown."""

    def __init__(self, letter: DeadLetter) -> None:
        self._letter, span = letter, otlp.first_span(letter.body)
        self.line = {
            "number": letter.id,
            "refused_at": letter.at,
            "session_id": letter.session_id,
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "name": span.name,
            "reason": letter.reason,
        }

    @property
    def whole(self) -> dict[str, object]:
        return {**self.line, "otlp": otlp.as_json(self._letter.body)}

    @property
    def cells(self) -> list[str]:
        of = self._letter
        return [str(of.id), _moment(of.at, _zone()), str(self.line["name"]), of.reason]


def letters(dead: list[Letter], count: int) -> None:
    """The first ones of so many."""
    console = _console()
    if not dead:
        console.print("no dead letters")
        return
    ids = [str(letter.line["session_id"] or "") for letter in dead]
    if console.width < WIDE:
        ids = beginnings(ids)
    shown = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for name in ("number", f"refused ({_zone().tzname(None)})", "session", "span", "reason"):
        shown.add_column(name, no_wrap=name not in ("span", "reason"), overflow="fold")
    for id_, letter in zip(ids, dead, strict=True):
        number, refused, span, reason = map(_printable, letter.cells)
        shown.add_row(*map(Text, (number, refused, id_, span, reason)))
    console.print(shown)
    if count > len(dead):
        console.print(f"and {count - len(dead)} more: --limit shows them")


@contextlib.contextmanager
def findings() -> Iterator[tuple[Callable[[Finding], None], Callable[[str], None]]]:
    """The first prints a finding; the second says, on a terminal, what is waited for."""
    console = _console()

    def show(of: Finding) -> None:
        mark, name, text = Text(f"{of.state:4}", style=STATES[of.state]), f"{of.name:9}", Text(_printable(of.text))
        if console.is_terminal:
            line = Table.grid(padding=(0, 2))
            line.add_row(mark, name, text)
            console.print(line)
        else:
            console.print(Text.assemble(mark, f"  {name}  ", text), soft_wrap=True)

    with console.status("") as status:
        yield show, status.update


def tree(spans: list[Span], of: Summary, links: Links, capture: bool = True) -> None:
    """The spans under their parents, in the order of their start. Without `capture`, errors by their type only."""
    console, zone = _console(), _zone()
    console.print(Text(sentence(of)))
    console.print(Text(f"began {_moment(of.started_at, zone)} {zone.tzname(None)}, trace {of.trace_id}"))
    for name, address in msgspec.structs.asdict(links.to(of.trace_id)).items():
        if address is not None:
            console.print(Text(f"in {name.capitalize()}: {address}"), soft_wrap=True)
    children: dict[str, list[Span]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano)):
        children.setdefault(span.parent_span_id if span.parent_span_id in known else "", []).append(span)
    first = min((span.start_time_unix_nano for span in spans), default=0)
    top = Tree(Text("trace"), hide_root=True)
    _grow(top, "", children, lambda span: _label(span, first, capture))
    console.print(top)


def _grow(branch: Tree, parent: str, children: dict[str, list[Span]], label: Callable[[Span], Text]) -> None:
    for span in children.get(parent, []):
        _grow(branch.add(label(span)), span.span_id, children, label)


def _label(span: Span, first: int, capture: bool) -> Text:
    length = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    label = Text().append(_printable(span.name), style="bold")
    label.append(f"  +{(span.start_time_unix_nano - first) / 1e9:.2f} s", style="dim")
    label.append(f"  {duration(length)}", style="cyan")
    if span.open:
        label.append("  open", style="yellow")
    if span.status == "ERROR" or s.ERROR_TYPE in span.attributes:
        label.append(f"  {_printable(str(span.attributes.get(s.ERROR_TYPE, 'error')))}", style="red")
    if source := span.attributes.get(s.INTERRUPTION_SOURCE):
        label.append(f"  interrupted by {INTERRUPTED.get(str(source), _printable(str(source)))}", style="magenta")
    said = [""]
    for key, mark in ((s.OBSERVATION_INPUT, "in "), (s.OBSERVATION_OUTPUT, "out")):
        if span.parent_span_id and (text := _content(span.attributes.get(key))):
            said.append(text)
            label.append(f"\n{mark} {text}", style="dim")
    # A failed tool's is what it gave.
    if capture and (error := _cut(span.status_message)) not in said:
        label.append(f"\nerr {error}", style="red")
    return label


def _zone() -> tzinfo:
    """The local one, as it is now, for all times of a list."""
    return datetime.now().astimezone().tzinfo or UTC


def _moment(ms: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(ms / 1000, zone).strftime("%Y-%m-%d %H:%M:%S")


def _content(value: object) -> str:
    """Chat messages as their words."""
    if not isinstance(value, str):
        return ""
    try:
        messages = msgspec.json.decode(value, type=list[dict[str, object]])
        text = " / ".join(str(message.get("content") or "(tool calls)") for message in messages)
    except msgspec.DecodeError:
        text = value
    return _cut(text)


def _cut(text: str) -> str:
    text = _printable(text)
    return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"


def _printable(text: str) -> str:
    """What a page said never steers the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _console() -> Console:
    """Where it is no terminal that is written to, a line is as long as it is."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)
