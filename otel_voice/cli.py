"""otel-voice: serve | demo | replay | sessions | show | resend | dead-letters | backup | doctor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import msgspec
import uvicorn
from rich.console import Console
from starlette.applications import Starlette

from otel_voice import __version__, display, doctor, resend, settings
from otel_voice.app import create_app, encoder
from otel_voice.arguments import as_typed, parser
from otel_voice.backup import back_up
from otel_voice.edge import CONNECTIONS
from otel_voice.exporter import client
from otel_voice.links import Links
from otel_voice.mapped import CannotMap, look
from otel_voice.recording import BadRecording, Recording
from otel_voice.replay import ReplayFailed, replay
from otel_voice.session import Session
from otel_voice.spans import Span
from otel_voice.spans import session_id as canonical
from otel_voice.store import FILE, Locked, OtherSchema, Reader, SessionRow, Unavailable, check, drop, retry
from otel_voice.summary import Summary

DEMO = ("gemini-live.jsonl", "openai-realtime.jsonl", "lost-connection.jsonl")
# One more call runs while somebody looks.
DEMO_LIVE = "openai-realtime.jsonl"
# Ids of sessions that an error names.
LISTED = 5
# Requests end within this after SIGTERM; then comes the drain.
GRACE_S = 3


class Failed(Exception):
    """What went wrong, in one sentence for the terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for what failed, 2 for a wrong call or setting."""
    arguments = parser(RUNS).parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except settings.BadSetting as error:
        print(f"otel-voice: {error}", file=sys.stderr)
        return 2
    except (Failed, BadRecording, ReplayFailed, resend.NotTaken, Locked, OtherSchema, Unavailable, CannotMap) as error:
        print(f"otel-voice: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# serve, demo


def _serve(arguments: argparse.Namespace) -> int:
    chosen = settings.read(os.environ, arguments.host, arguments.port, arguments.data_dir)
    app = create_app(chosen)
    return _run(app, _server(app), _listening(chosen))


def _listening(chosen: settings.Settings) -> socket.socket:
    """A socket at the address, with the store known to be usable; what would stop the start is said in one sentence."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        check(chosen.data_dir)
    except OSError as error:
        raise Failed(f"--data-dir {chosen.data_dir} cannot be used: {error.strerror}") from None
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((chosen.host, chosen.port))
    except OSError as error:
        listening.close()
        raise Failed(f"{_host(chosen)}:{chosen.port} cannot be bound: {error.strerror}") from None
    where = f"spans go to {chosen.export.url}" if chosen.export else "spans stay in the store: no OTLP endpoint is set"
    url = _url(chosen, listening)
    print(f"otel-voice {__version__} on {url}, store in {chosen.data_dir}; {where}", flush=True)
    return listening


def _host(chosen: settings.Settings) -> str:
    return f"[{chosen.host}]" if ":" in chosen.host else chosen.host


def _url(chosen: settings.Settings, listening: socket.socket) -> str:
    return f"http://{_host(chosen)}:{listening.getsockname()[1]}"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.streams.end()
        await super().shutdown(sockets)


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, app)
    # Not by uvicorn's own limit, whose answer no page may read and which does not say when to come again.
    app.state.load.connections = lambda: len(server.server_state.connections)
    return server


def _run(app: Starlette, server: uvicorn.Server, listening: socket.socket) -> int:
    # The connections that are let in, and the store's files, whatever a shell's usual limit is.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * CONNECTIONS), most))
    # Events live for the settle time, in hundreds of thousands: looking them all over for cycles, of which there are
    # next to none, every few hundred of them cost a fifth of all work.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)
    # uvicorn raises the signal again once it has stopped in good order, and that is a success.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    return 0 if server.started and not app.state.failed else 1


def _demo(arguments: argparse.Namespace) -> int:
    own = str(settings.demo_data_dir(os.environ))
    directory = arguments.data_dir or os.environ.get("OTEL_VOICE_DATA_DIR") or own
    chosen = settings.read(os.environ, arguments.host, arguments.port, directory)
    app = create_app(chosen)
    server, listening = _server(app), _listening(chosen)
    threading.Thread(
        target=_play_demo, args=(server, _url(chosen, listening), chosen), name="demo", daemon=True
    ).start()
    return _run(app, server, listening)


def _play_demo(server: uvicorn.Server, url: str, chosen: settings.Settings) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    console = Console()
    for name in DEMO:
        done = _replay_demo(name, url, chosen, speed=None)
        console.print(f"replayed {name}: {display.sentence(done)}", soft_wrap=True)
        console.print(f"  {url}/sessions/{done.session_id}", soft_wrap=True)
    console.print(f"\nopen {url}/  (or: {_typed('sessions', chosen)})", soft_wrap=True)
    console.print("One more call runs just now. Ctrl-C stops it all.")
    with contextlib.suppress(ReplayFailed):  # the server has been stopped meanwhile
        _replay_demo(DEMO_LIVE, url, chosen, speed=1)


def _replay_demo(name: str, url: str, chosen: settings.Settings, speed: float | None) -> Summary:
    with as_file(files("otel_voice").joinpath("demo", name)) as path:
        recording = Recording(path)
    return replay(recording, url, chosen.api_key, speed, on_progress=lambda _: None, agent_name="demo")


# replay


def _replay(arguments: argparse.Namespace) -> int:
    try:
        recording = Recording(arguments.file, arguments.provider)
    except OSError as error:
        raise Failed(f"{arguments.file}: {error.strerror}") from None
    session_id = _canonical(arguments.session_id) if arguments.session_id else None
    if arguments.dry_run or not arguments.endpoint:
        session = recording.session(session_id)
        _print_session(session, arguments.json)
        return 0
    speed = None if arguments.instant else arguments.speed
    with display.progress(len(recording.events), "replaying", "events") as advance:
        summary = replay(
            recording, arguments.endpoint, os.environ.get("OTEL_VOICE_API_KEY"), speed, advance, session_id
        )
    print(msgspec.json.encode(summary).decode() if arguments.json else display.sentence(summary))
    return 0


def _print_session(session: Session, as_json: bool) -> None:
    _print_spans(session.take(), session.summary(), Links(), as_json)


def _print_spans(spans: list[Span], summary: Summary, links: Links, as_json: bool, capture: bool = True) -> None:
    if as_json:
        ids = {"session_id": summary.session_id, "trace_id": summary.trace_id}
        print(display.json({**ids, "summary": summary, "links": links.to(summary.trace_id), "spans": spans}))
    else:
        display.tree(spans, summary, links, capture)


def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except ValueError as error:
        raise Failed(str(error)) from None


# sessions, show, resend, dead-letters, backup


@contextlib.contextmanager
def _reader(arguments: argparse.Namespace) -> Iterator[tuple[Reader, settings.Settings]]:
    chosen = settings.read(os.environ, data_dir=arguments.data_dir)
    try:
        reader = Reader(chosen.data_dir)
    except FileNotFoundError as error:
        raise Failed(f"{error}; --data-dir or OTEL_VOICE_DATA_DIR says where it lies") from None
    with contextlib.closing(reader):
        yield reader, chosen


def _sessions(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        rows = reader.sessions(max(1, arguments.limit))
        summaries = [said for row in rows if (said := _summary(reader, row, chosen.capture_content)) is not None]
    if arguments.json:
        print(display.json(summaries))
    else:
        display.table(summaries)


def _summary(reader: Reader, row: SessionRow, capture: bool) -> Summary | None:
    """A call that goes on is ahead of its row. None where there is nothing to say of it yet."""
    if row.status == "open":
        with contextlib.suppress(CannotMap):
            if looked := look(reader, row.id, capture, time.time() * 1000):
                return looked[1]
    return display.summary(row) if len(row.summary) > len(b"{}") else None


def _show(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        session_id = _found(reader, arguments.session, chosen)
        looked = look(reader, session_id, chosen.capture_content, time.time() * 1000)
    if looked is None:
        raise Failed(_no_session(session_id, chosen))
    links = Links(chosen.jaeger_url, chosen.langfuse_url)
    _print_spans(*looked, links, arguments.json, chosen.capture_content)


def _found(reader: Reader, text: str, chosen: settings.Settings) -> str:
    """The session of this id, or the one whose id begins so."""
    session_id = _canonical(text)
    if reader.session(session_id) is not None:
        return session_id
    ids = reader.ids_beginning(session_id, LISTED + 1) or reader.ids_beginning(session_id.lower(), LISTED + 1)
    if not ids:
        raise Failed(_no_session(session_id, chosen))
    if len(ids) > 1:
        more = " and others" if len(ids) > LISTED else ""
        raise Failed(f"the ids of several sessions begin with {session_id}: {', '.join(ids[:LISTED])}{more}")
    return ids[0]


def _no_session(session_id: str, chosen: settings.Settings) -> str:
    return f"session {session_id} is not in the store; `{_typed('sessions', chosen)}` lists those that are"


def _resend(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        if chosen.export is None:
            raise Failed("there is nowhere to send to: set OTEL_EXPORTER_OTLP_ENDPOINT or the LANGFUSE_ keys")
        if arguments.session is None:
            asyncio.run(_resend_since(reader, time.time() - arguments.since, chosen, chosen.export))
        else:
            asyncio.run(_resend_one(reader, _found(reader, arguments.session, chosen), chosen, chosen.export))


async def _resend_one(reader: Reader, session_id: str, chosen: settings.Settings, export: settings.Export) -> None:
    rows = resend.rows_of(reader, session_id, chosen.capture_content, encoder(chosen))
    if rows is None:
        raise Failed(_no_session(session_id, chosen))
    if not rows:
        raise Failed(f"no span of session {session_id} is final yet: there is nothing to send again")
    async with client(export) as http:
        refused = await resend.send(http, export, rows)
    print(f"sent {len(rows) - len(refused)} spans of session {session_id} to {export.url}")
    if refused:
        raise Failed(f"{display.counted(len(refused), 'span')} refused: {refused[0]}")


async def _resend_since(reader: Reader, since: float, chosen: settings.Settings, export: settings.Export) -> None:
    ids, encode, sent = list(resend.sessions_since(reader, since * 1000)), encoder(chosen), 0
    wrong: list[str] = []
    with display.progress(len(ids), "resending", "sessions") as advance:
        async with client(export) as http:
            for session_id in ids:
                try:
                    rows = resend.rows_of(reader, session_id, chosen.capture_content, encode) or []
                except CannotMap as error:
                    rows = []
                    wrong.append(str(error))
                refused = await resend.send(http, export, rows)
                wrong += [f"a span of session {session_id} was refused: {reason}" for reason in refused]
                sent += len(rows) - len(refused)
                advance(1)
    print(f"sent {display.counted(sent, 'span')} of {display.counted(len(ids), 'session')} to {export.url}")
    for line in wrong:
        print(f"otel-voice: {line}", file=sys.stderr)
    if wrong:
        raise Failed(f"not everything was sent: {display.counted(len(wrong), 'thing')} went wrong")


# doctor


def _doctor(arguments: argparse.Namespace) -> int:
    chosen = settings.read(os.environ, arguments.host, arguments.port, arguments.data_dir)
    return asyncio.run(_examine(chosen, arguments.json))


async def _examine(chosen: settings.Settings, as_json: bool) -> int:
    found = []
    with display.findings() as (show, waiting):
        async for finding in doctor.examine(chosen, os.environ, waiting=waiting):
            found.append(finding)
            if not as_json:
                show(finding)
    if as_json:
        print(display.json(found))
    return doctor.exit_code(found)


def _dead_letters(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, _):
        letters = [display.Letter(letter) for letter in reader.dead_letters(max(1, arguments.limit))]
        count = reader.ledger().dead
    if arguments.json:
        print(display.json([letter.line for letter in letters]))
    else:
        display.letters(letters, count)


def _show_dead_letter(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        letter = reader.dead_letter(arguments.number)
    if letter is None:
        raise Failed(_no_dead_letter(arguments.number, chosen))
    print(display.json(display.Letter(letter).whole))


def _retry_dead_letters(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        count = retry(chosen.data_dir, _numbers(reader, arguments.number, chosen))
    print(f"{display.counted(count, 'dead letter')} will be sent again")


def _drop_dead_letters(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        count = drop(chosen.data_dir, _numbers(reader, arguments.number, chosen))
    print(f"{display.counted(count, 'dead letter')} dropped")


def _numbers(reader: Reader, numbers: Sequence[int], chosen: settings.Settings) -> Sequence[int]:
    """These; without any, all."""
    known = reader.dead_numbers()
    if missing := set(numbers).difference(known):
        raise Failed(_no_dead_letter(min(missing), chosen))
    return numbers or known


def _no_dead_letter(number: int, chosen: settings.Settings) -> str:
    return f"there is no dead letter {number}; `{_typed('dead-letters', chosen)}` lists those that there are"


def _typed(command: str, chosen: settings.Settings) -> str:
    """Another command on the same store."""
    return f"{as_typed(sys.argv[0], Path.cwd())} {command}{settings.data_dir_option(chosen, os.environ)}"


def _backup(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    with _reader(arguments) as (_, chosen):
        mib = (chosen.data_dir / FILE).stat().st_size >> 20
        try:
            with display.progress(mib, "copying", "MiB") as advance:
                ledger = back_up(chosen.data_dir, folder, advance)
        except FileExistsError:
            raise Failed(f"{folder} exists already, and a backup replaces nothing: choose another name") from None
        except OSError as error:
            raise Failed(f"{folder} cannot be made: {error.strerror}") from None
    print(f"{folder} holds {' and '.join(sorted(os.listdir(folder)))} of {chosen.data_dir}; {ledger}")


RUNS = {
    "serve": _serve,
    "demo": _demo,
    "doctor": _doctor,
    "replay": _replay,
    "sessions": _sessions,
    "show": _show,
    "resend": _resend,
    "backup": _backup,
    "dead-letters list": _dead_letters,
    "dead-letters show": _show_dead_letter,
    "dead-letters retry": _retry_dead_letters,
    "dead-letters drop": _drop_dead_letters,
}


if __name__ == "__main__":
    sys.exit(main())
