"""otel-voice: serve | demo | replay | sessions | show | resend | dead-letters | doctor."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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

from otel_voice import __version__, display, doctor, settings
from otel_voice.app import create_app, encoder
from otel_voice.exporter import Verdict, client, joined, post
from otel_voice.recording import BadRecording, Recording
from otel_voice.replay import ReplayFailed, replay
from otel_voice.session import Session
from otel_voice.sessions import CannotMap, look, made_spans
from otel_voice.spans import session_id as canonical
from otel_voice.store import Locked, Pending, Reader, SessionRow, Unavailable, check, drop, retry
from otel_voice.summary import Summary

PROVIDERS = ("gemini-live", "openai-realtime")
DEMO = (("gemini-live.jsonl", "gemini-live"), ("openai-realtime.jsonl", "openai-realtime"))
# Requests end within this after SIGTERM; then comes the drain.
GRACE_S = 3
# Each may hold 64 KiB in the server's buffers.
CONNECTIONS = 5_000
# A laptop's; what is delivered of the demo is no loss.
DEMO_LIMITS = {"OTEL_VOICE_RETENTION_DAYS": "7", "OTEL_VOICE_MAX_STORE_MIB": "256"}


class Failed(Exception):
    """What went wrong, in one sentence for the terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for what failed, 2 for a wrong call or setting."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except settings.BadSetting as error:
        print(f"otel-voice: {error}", file=sys.stderr)
        return 2
    except (Failed, BadRecording, ReplayFailed, Locked, Unavailable, CannotMap) as error:
        print(f"otel-voice: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-voice",
        description="Traces of voice calls that a browser holds with Gemini Live or OpenAI Realtime.",
        epilog="Settings come from the command line, then from the environment: OTEL_EXPORTER_OTLP_*, "
        "OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, LANGFUSE_*, OTEL_VOICE_*. The README lists them.",
    )
    parser.add_argument("--version", action="version", version=f"otel-voice {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _serve_parser(commands)
    _replay_parser(commands)
    _store_parsers(commands)
    _dead_letters_parser(commands)
    return parser


def _serve_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, run, help_ in (
        ("serve", _serve, "run the receiver, the exporter and the read API"),
        ("demo", _demo, "run the receiver as serve does, with two recorded calls replayed into it"),
        ("doctor", _doctor, "look at everything between here and the backend, and say how to mend it"),
    ):
        command = commands.add_parser(name, help=help_, description=_sentence(help_))
        command.add_argument("--host", help="address to bind (default 127.0.0.1; others need OTEL_VOICE_API_KEY)")
        command.add_argument("--port", type=_port, help="port to bind (default 8770)")
        _add_data_dir(command)
        command.set_defaults(run=run)
        if name == "doctor":
            command.add_argument("--json", action="store_true", help="print JSON")


def _replay_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    help_ = "post a recorded provider session to a receiver, or print its spans"
    command = commands.add_parser("replay", help=help_, description=_sentence(help_))
    command.add_argument(
        "file", type=Path, help='a JSON line a frame: {"dir": "sent"|"received", "message": {…}, "ts": ms?}'
    )
    command.add_argument("--provider", required=True, choices=PROVIDERS, help="whose messages the file holds")
    command.add_argument(
        "--endpoint", help="the receiver's address, as http://127.0.0.1:8770; without one, print the spans"
    )
    command.add_argument("--session-id", help="the session's id (default: a new one)")
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, default=1.0, metavar="N", help="N times as fast as it was (default 1)")
    pace.add_argument("--instant", action="store_true", help="as fast as the receiver takes it")
    command.add_argument("--dry-run", action="store_true", help="print the span tree and post nothing")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_replay)


def _store_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, run, help_ in (
        ("sessions", _sessions, "list the sessions in the store, newest first"),
        ("show", _show, "print a session's spans as a tree with durations"),
        ("resend", _resend, "map a session again from its log and send the same spans again"),
    ):
        command = commands.add_parser(name, help=help_, description=_sentence(help_))
        _add_data_dir(command)
        command.set_defaults(run=run)
        if name != "sessions":
            command.add_argument("session", help="the session's id")
        else:
            command.add_argument("--limit", type=int, default=50, help="at most so many (default 50)")
        if name != "resend":
            command.add_argument("--json", action="store_true", help="print JSON")


def _dead_letters_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    help_ = "the spans that the next hop refused for good: list, show, retry or drop them"
    command = commands.add_parser("dead-letters", help=help_, description=_sentence(help_))
    _add_data_dir(command)
    command.set_defaults(run=_dead_letters)
    command.add_argument("--limit", type=int, default=50, help="at most so many (default 50)")
    command.add_argument("--json", action="store_true", help="print JSON")
    doings = command.add_subparsers(title="what to do (list, if nothing is said)", metavar="DO")
    for name, run, help_ in (
        ("list", _dead_letters, "what they are, whose, and why they were refused"),
        ("show", _show_dead_letter, "print one as OTLP JSON"),
        ("retry", _retry_dead_letters, "send them again, when what was wrong with the next hop is mended"),
        ("drop", _drop_dead_letters, "give them up; the ledger counts them as dropped by the operator"),
    ):
        doing = doings.add_parser(name, help=help_, description=_sentence(help_))
        doing.set_defaults(run=run)
        if name == "show":
            doing.add_argument("number", type=int, help="its number in the list")
        elif name != "list":
            which = doing.add_mutually_exclusive_group(required=True)
            which.add_argument("number", type=int, nargs="*", default=[], help="their numbers in the list")
            which.add_argument("--all", action="store_true", help="all of them")


def _add_data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir", help="where the store lies (default ~/.local/share/otel-voice; the demo's is demo in it)"
    )


def _sentence(help_: str) -> str:
    return f"{help_[0].upper()}{help_[1:]}."


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError("the port must be a number from 0 to 65535")
    return int(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0
    if not 0 < speed <= 1000:
        raise argparse.ArgumentTypeError("the speed must be a number above 0 and up to 1000")
    return speed


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


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=CONNECTIONS,
    )
    return uvicorn.Server(config)


def _run(app: Starlette, server: uvicorn.Server, listening: socket.socket) -> int:
    # The connections that are let in, and the store's files, whatever a shell's usual limit is.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * CONNECTIONS), most))
    # uvicorn raises the signal again once it has stopped in good order, and that is a success.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    return 0 if server.started and not app.state.failed else 1


def _demo(arguments: argparse.Namespace) -> int:
    own = str(settings.default_data_dir(os.environ) / "demo")
    directory = arguments.data_dir or os.environ.get("OTEL_VOICE_DATA_DIR") or own
    chosen = settings.read({**DEMO_LIMITS, **os.environ}, arguments.host, arguments.port, directory)
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
    for name, provider in DEMO:
        with as_file(files("otel_voice").joinpath("demo", name)) as path:
            recording = Recording(path, provider)  # type: ignore[arg-type]
        done = replay(recording, url, chosen.api_key, speed=None, agent_name="demo", on_progress=lambda _: None)
        console.print(f"replayed {name} ({provider}): {display.sentence(done)}", soft_wrap=True)
        console.print(f"  {url}/v1/sessions/{done.session_id}/spans", soft_wrap=True)
    console.print(f"\nopen {url}/v1/sessions  (or: otel-voice sessions --data-dir {chosen.data_dir})", soft_wrap=True)
    console.print("Ctrl-C stops it.")


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
    with display.progress(len(recording.events)) as advance:
        summary = replay(
            recording, arguments.endpoint, os.environ.get("OTEL_VOICE_API_KEY"), speed, advance, session_id
        )
    print(msgspec.json.encode(summary).decode() if arguments.json else display.sentence(summary))
    return 0


def _print_session(session: Session, as_json: bool) -> None:
    spans, summary = session.take(), session.summary()
    if as_json:
        document = {"session_id": session.id, "trace_id": session.trace.id, "summary": summary, "spans": spans}
        print(display.json(document))
    else:
        display.tree(spans, summary)


def _canonical(text: str) -> str:
    try:
        return canonical(text)
    except ValueError as error:
        raise Failed(str(error)) from None


# sessions, show, resend, dead-letters


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
        rows = [row for row in reader.sessions(max(1, arguments.limit)) if row.summary]
        summaries = [_summary(reader, row, chosen.capture_content) for row in rows]
    if arguments.json:
        print(display.json(summaries))
    else:
        display.table(summaries)


def _summary(reader: Reader, row: SessionRow, capture: bool) -> Summary:
    """A call that goes on is ahead of its row by the settle time."""
    looked = look(reader, row.id, capture, time.time() * 1000) if row.status == "open" else None
    return looked[1] if looked else display.summary(row)


def _show(arguments: argparse.Namespace) -> None:
    session_id = _canonical(arguments.session)
    with _reader(arguments) as (reader, chosen):
        looked = look(reader, session_id, chosen.capture_content, time.time() * 1000)
    if looked is None:
        raise Failed(f"session {session_id} is not in the store")
    spans, summary = looked
    if arguments.json:
        document = {"session_id": session_id, "trace_id": summary.trace_id, "summary": summary, "spans": spans}
        print(display.json(document))
    else:
        display.tree(spans, summary)


def _resend(arguments: argparse.Namespace) -> None:
    session_id = _canonical(arguments.session)
    with _reader(arguments) as (reader, chosen):
        if chosen.export is None:
            raise Failed("there is nowhere to send to: set OTEL_EXPORTER_OTLP_ENDPOINT or the LANGFUSE_ keys")
        spans = made_spans(reader, session_id, chosen.capture_content)
    if spans is None:
        raise Failed(f"session {session_id} is not in the store")
    if not spans:
        raise Failed(f"no span of session {session_id} is final yet: there is nothing to send again")
    encode = encoder(chosen).request
    asyncio.run(_send([Pending(n, 0, encode(span)) for n, span in enumerate(spans)], chosen.export))
    print(f"sent {len(spans)} spans of session {session_id} to {chosen.export.url}")


async def _send(rows: list[Pending], export: settings.Export) -> None:
    """Once; who asks for it sees at once when it fails, and can ask again: the same spans replace themselves."""
    async with client(export) as http:
        while rows:
            batch = joined(rows)
            answer = await post(http, export, b"".join(row.body for row in batch))
            if answer.verdict is not Verdict.TAKEN:
                raise Failed(f"{export.url} did not take the spans: {answer.reason}; try again")
            rows = rows[len(batch) :]


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
    with _reader(arguments) as (reader, _):
        letter = reader.dead_letter(arguments.number)
    if letter is None:
        raise Failed(_no_dead_letter(arguments.number))
    print(display.json(display.Letter(letter).whole))


def _retry_dead_letters(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        count = retry(chosen.data_dir, _chosen(reader, arguments.number))
    print(f"{display.counted(count, 'dead letter')} will be sent again")


def _drop_dead_letters(arguments: argparse.Namespace) -> None:
    with _reader(arguments) as (reader, chosen):
        count = drop(chosen.data_dir, _chosen(reader, arguments.number))
    print(f"{display.counted(count, 'dead letter')} dropped")


def _chosen(reader: Reader, numbers: Sequence[int]) -> Sequence[int]:
    """These numbers; without any, all."""
    known = reader.dead_numbers()
    if missing := set(numbers).difference(known):
        raise Failed(_no_dead_letter(min(missing)))
    return numbers or known


def _no_dead_letter(number: int) -> str:
    return f"there is no dead letter {number}; `otel-voice dead-letters` lists them"


if __name__ == "__main__":
    sys.exit(main())
