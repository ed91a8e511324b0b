"""The command line's words: commands, options, help."""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from otel_voice import __version__

NAME = "otel-voice"
ID = "the session's id, or as much of its beginning as no other has"
PROVIDERS = ("gemini-live", "openai-realtime")
UNITS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}

Run = Callable[[argparse.Namespace], int | None]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The whole command line; `runs` says what each command does, by its words."""
    whole = argparse.ArgumentParser(
        prog="otel-voice",
        description="Traces of voice calls that a browser holds with Gemini Live or OpenAI Realtime. "
        "Begin with `otel-voice demo`; `otel-voice COMMAND --help` says more of each.",
        epilog="Settings come from the command line, then from the environment: OTEL_EXPORTER_OTLP_*, "
        "OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, LANGFUSE_*, OTEL_VOICE_*. docs/settings.md lists them. "
        "The exit code is 0, 1 for what failed, 2 for a wrong call or setting.",
    )
    version = f"otel-voice {__version__}"
    whole.add_argument("--version", action="version", version=version, help="print the version and exit")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _serve_parser(commands, runs)
    _store_parsers(commands, runs)
    _dead_letters_parser(commands, runs)
    _backup_parser(commands, runs)
    _replay_parser(commands, runs)
    _doctor_parser(commands, runs)
    return whole


def as_typed(script: str, cwd: Path) -> str:
    """This program, started as `script`, as somebody in that folder can type it."""
    if Path(script).name != NAME:  # by python -m
        return NAME
    path, found = cwd / script, shutil.which(NAME)
    if found is not None and cwd / found == path:
        return NAME
    below = path.relative_to(cwd) if path.is_relative_to(cwd) else path
    return shlex.quote(str(below) if "/" in str(below) else f"./{below}")


def _serve_parser(commands: Commands, runs: Mapping[str, Run]) -> None:
    for name, help_ in (
        ("serve", "run the receiver, the exporter and the viewer"),
        ("demo", "serve, with recorded calls in it and one that runs"),
    ):
        _add_address(_command(commands, name, help_, runs[name]))


def _doctor_parser(commands: Commands, runs: Mapping[str, Run]) -> None:
    help_ = "look at everything between here and the backend, and say how to mend it"
    command = _command(commands, "doctor", help_, runs["doctor"])
    _add_address(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _command(commands: Commands, name: str, help_: str, run: Run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_, description=_sentence(help_))
    command.set_defaults(run=run)
    return command


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--host", metavar="ADDRESS", help="address to bind (default 127.0.0.1; others need OTEL_VOICE_API_KEY)"
    )
    command.add_argument("--port", type=_port, metavar="PORT", help="port to bind (default 8770)")
    _add_data_dir(command)


def _replay_parser(commands: Commands, runs: Mapping[str, Run]) -> None:
    help_ = "post a recorded or downloaded session to a receiver, or print its spans"
    command = _command(commands, "replay", help_, runs["replay"])
    command.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help='a JSON line a frame: {"dir": "sent"|"received", "message": {…}, "ts": ms?}; or a downloaded session',
    )
    command.add_argument(
        "--provider", choices=PROVIDERS, help="whose frames the file holds (default: told from the messages)"
    )
    command.add_argument(
        "--endpoint",
        metavar="URL",
        help="the receiver's address, as http://127.0.0.1:8770; without one, print the spans",
    )
    command.add_argument("--session-id", metavar="ID", help="the session's id (default: a new one)")
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=_speed, default=1.0, metavar="N", help="N times as fast as it was (default 1)")
    pace.add_argument("--instant", action="store_true", help="as fast as the receiver takes it")
    command.add_argument("--dry-run", action="store_true", help="print the span tree and post nothing")
    command.add_argument("--json", action="store_true", help="print JSON")


def _store_parsers(commands: Commands, runs: Mapping[str, Run]) -> None:
    for name, help_ in (
        ("sessions", "list the sessions in the store, newest first"),
        ("show", "print a session's spans as a tree with durations"),
        ("resend", "map sessions again from their logs and send the same spans again"),
    ):
        command = _command(commands, name, help_, runs[name])
        _add_data_dir(command)
        if name == "resend":
            which = command.add_mutually_exclusive_group(required=True)
            which.add_argument("session", metavar="SESSION", nargs="?", help=ID)
            which.add_argument("--since", type=_ago, metavar="2h", help="all that began within this time: 30m, 2h, 3d")
            continue
        command.add_argument("--json", action="store_true", help="print JSON")
        if name == "show":
            command.add_argument("session", metavar="SESSION", help=ID)
        else:
            command.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many (default 50)")


def _dead_letters_parser(commands: Commands, runs: Mapping[str, Run]) -> None:
    help_ = "the spans that the next hop refused for good: list, show, retry or drop them"
    command = _command(commands, "dead-letters", help_, runs["dead-letters list"])
    _add_data_dir(command)
    command.set_defaults(json=False)
    _add_list_options(command, 50)
    doings = command.add_subparsers(title="what to do (list, if nothing is said)", metavar="DO")
    for name, help_ in (
        ("list", "what they are, whose, and why they were refused"),
        ("show", "print one as OTLP JSON"),
        ("retry", "send them again, when what was wrong with the next hop is mended"),
        ("drop", "give them up; the ledger counts them as dropped by the operator"),
    ):
        doing = _command(doings, name, help_, runs[f"dead-letters {name}"])
        _add_data_dir(doing, argparse.SUPPRESS)
        if name == "show":
            doing.add_argument("number", metavar="NUMBER", type=int, help="its number in the list")
        elif name == "list":
            _add_list_options(doing, argparse.SUPPRESS)
        else:
            which = doing.add_mutually_exclusive_group(required=True)
            which.add_argument(
                "number", metavar="NUMBER", type=int, nargs="*", default=[], help="their numbers in the list"
            )
            which.add_argument("--all", action="store_true", help="all of them")


def _backup_parser(commands: Commands, runs: Mapping[str, Run]) -> None:
    help_ = "copy the store and its token key into a new folder, also while a receiver works on it"
    command = _command(commands, "backup", help_, runs["backup"])
    _add_data_dir(command)
    where = "the folder that is made; `otel-voice serve --data-dir` takes a copy of it"
    command.add_argument("folder", metavar="FOLDER", type=Path, help=where)


def _add_list_options(command: argparse.ArgumentParser, default: object) -> None:
    command.add_argument("--limit", metavar="N", type=int, default=default, help="at most so many (default 50)")
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _add_data_dir(command: argparse.ArgumentParser, default: object = None) -> None:
    """Said before or after what to do: a suppressed default leaves what was said before."""
    where = "where the store lies (default ~/.local/share/otel-voice; the demo's is demo in it)"
    command.add_argument("--data-dir", metavar="DIR", default=default, help=where)


def _sentence(help_: str) -> str:
    return f"{help_[0].upper()}{help_[1:]}."


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise argparse.ArgumentTypeError("the port must be a number from 0 to 65535")
    return int(text)


def _ago(text: str) -> float:
    """Seconds."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or len(number) > 6 or unit not in UNITS:
        raise argparse.ArgumentTypeError("it must be a number of minutes, hours or days, like 30m, 2h or 3d")
    return int(number) * UNITS[unit]


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0
    if not 0 < speed <= 1000:
        raise argparse.ArgumentTypeError("the speed must be a number above 0 and up to 1000")
    return speed
