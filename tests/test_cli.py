"""The command line: what it prints, its exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from otel_voice import __version__
from otel_voice.arguments import as_typed
from otel_voice.cli import main
from otel_voice.store import FILE, Reader, lock
from tests.facts import RECORDINGS
from tests.real import COLLECTOR_CONFIG, LangfuseServer, Receiver, Reply, free_port, wait_for

COMMANDS = ("serve", "demo", "replay", "sessions", "show", "resend", "dead-letters", "backup", "doctor")
BARGE_IN, TOOLS = RECORDINGS / "gemini_barge_in.jsonl", RECORDINGS / "openai_tool_round.jsonl"
GEMINI = ("--provider", "gemini-live")
FIRST, SECOND = "0af76519-16cd-43dd-8448-eb211c80319c", "second-call"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`run(*arguments, **env)`: exit code, stdout and stderr, with no setting of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LANGFUSE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))

    def run(*arguments: object, **env: str) -> tuple[int, str, str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def sentence(err: str) -> str:
    """The one line that a failure prints, of printable characters."""
    assert err.startswith("otel-voice: "), err
    assert err.endswith("\n") and err.count("\n") == 1, err
    assert err[:-1].isprintable(), err
    return err


def process(
    *arguments: object, env: Mapping[str, str] | None = None, deadline_s: float = 15
) -> subprocess.CompletedProcess[str]:
    """The command as a process, which has to end by itself."""
    command = [sys.executable, "-m", "otel_voice.cli", *map(str, arguments)]
    given = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "HOME": os.environ["HOME"], **(env or {})}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=deadline_s)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with two calls in it, left behind by a receiver."""
    folder = tmp_path_factory.mktemp("filled")
    receiver = Receiver(folder / "data", folder, {})
    calls = ((BARGE_IN, "gemini-live", FIRST), (TOOLS, "openai-realtime", SECOND))
    for file, provider, id_ in calls:
        options = ("--provider", provider, "--endpoint", receiver.url, "--session-id", id_, "--instant")
        done = process("replay", file, *options)
        assert done.returncode == 0, done.stderr
    reader = Reader(folder / "data")
    wait_for(lambda: all(row.status == "ended" for row in reader.sessions(10)), 20, "both calls to be over")
    wait_for(lambda: not reader.open_sessions(), 20, "their spans")
    reader.close()
    receiver.stop()
    yield folder / "data"


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_used(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: otel-voice {command} ")


def test_the_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(re.search(rf"^ +{command}( |$)", out, re.MULTILINE) for command in COMMANDS)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"otel-voice {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("replay",),
        ("replay", BARGE_IN, "--provider", "siri"),
        *[("replay", BARGE_IN, *GEMINI, "--speed", speed) for speed in ("0", "-1", "nan", "inf", "fast")],
        ("replay", BARGE_IN, *GEMINI, "--speed", "2", "--instant"),
        ("sessions", "--limit", "many"),
        ("show",),
        ("resend",),
        ("resend", FIRST, "--since", "2h"),
        *[("resend", "--since", since) for since in ("2", "h", "-2h", "2w", "1.5h")],
        ("dead-letters", "retry"),
        ("dead-letters", "drop", "1", "--all"),
        ("serve", "--port", "http"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)) or "nothing",
)
def test_a_wrong_call_is_2_and_says_how_it_is_used(run: Run, arguments: tuple[object, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: otel-voice")


@pytest.mark.parametrize(
    ("script", "on_path", "typed"),
    [
        (".venv/bin/otel-voice", False, ".venv/bin/otel-voice"),
        ("{cwd}/.venv/bin/otel-voice", False, ".venv/bin/otel-voice"),
        ("{cwd}/.venv/bin/otel-voice", True, "otel-voice"),
        ("./otel-voice", False, "./otel-voice"),
        ("/opt/of us/otel-voice", False, "'/opt/of us/otel-voice'"),
        ("{cwd}/otel_voice/cli.py", False, "otel-voice"),
        ("-c", False, "otel-voice"),
    ],
)
def test_a_command_that_is_named_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, on_path: bool, typed: str
) -> None:
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "otel-voice").touch(0o755)
    monkeypatch.setenv("PATH", str(bin_ if on_path else tmp_path / "nothing"))
    assert as_typed(script.format(cwd=tmp_path), tmp_path) == typed


# replay without a receiver


def test_a_dry_run_prints_the_span_tree(run: Run) -> None:
    code, out, err = run("replay", BARGE_IN, *GEMINI, "--dry-run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "2 turns, 0 tool calls, 1 interruption in 3.8 s" in lines[0]
    names = [line for line in lines if "voice_session" in line or "invoke_agent" in line or "generate_content" in line]
    depths = [len(re.match(r"[ │├└─]*", line)[0]) for line in names]  # type: ignore[index]
    assert depths == [0, 4, 8, 4, 8]
    assert "interrupted by the user" in out
    assert "We open at nine and close at" in out


def test_a_dry_run_as_JSON_is_the_summary_and_every_span(run: Run) -> None:
    code, out, _ = run("replay", TOOLS, "--provider", "openai-realtime", "--json", "--session-id", SECOND)
    document = json.loads(out)
    assert (code, set(document)) == (0, {"session_id", "trace_id", "summary", "links", "spans"})
    assert (document["session_id"], document["summary"]["tool_call_count"]) == (SECOND, 1)
    assert {span["trace_id"] for span in document["spans"]} == {document["trace_id"]}
    assert [span["name"] for span in document["spans"] if not span["parent_span_id"]] == ["voice_session"]
    assert {"start_time_unix_nano", "end_time_unix_nano", "kind", "attributes", "status"} <= set(document["spans"][0])


def test_a_dry_run_says_the_same_each_time(run: Run) -> None:
    assert run("replay", BARGE_IN, *GEMINI, "--json") == run("replay", BARGE_IN, *GEMINI, "--json")


GOOD = '{"dir":"received","message":{"setupComplete":{}}}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no message"),
        (b"\n \n", "no message"),
        (b"nonsense", "line 1"),
        (f"{GOOD}\n\n{{".encode(), "line 3"),
        (f"{GOOD}\n[]".encode(), "line 2"),
        (f'{GOOD}\n{{"dir":"up","message":{{}}}}'.encode(), "line 2: dir"),
        (f'{GOOD}\n{{"dir":"sent"}}'.encode(), "line 2"),
        (f'{GOOD}\n{{"dir":"sent","message":"x"}}'.encode(), "line 2: message"),
        (f'{GOOD}\n{{"dir":"sent","message":{{}},"ts":"noon"}}'.encode(), "line 2: ts"),
        (f'{GOOD}\n{{"dir":"sent","message":{{}},"ts":-1}}'.encode(), "line 2: ts"),
        (f'{GOOD}\n{{"dir":"sent","message":{{"a":'.encode() + b'"\xff"}}', "line 2"),
        (f'{GOOD}\n{{"dir":"sent","message":{{"a":{"[" * 100_000}}}}}'.encode(), "line 2"),
        (f'{GOOD}\n{{"dir":"\\u001b[31mred","message":{{}}}}'.encode(), "line 2: dir"),
        (GOOD.encode().replace(b"setupComplete", b"unheardOf"), "no message"),
    ],
    ids=[str(n) for n in range(14)],
)
def test_a_bad_recording_is_1_and_its_line_is_named(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "call.jsonl").write_bytes(content)
    code, out, err = run("replay", tmp_path / "call.jsonl", *GEMINI)
    assert (code, out) == (1, "")
    assert says in sentence(err)


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_a_recording_that_cannot_be_read_is_1_and_says_which(run: Run, tmp_path: Path, path: str) -> None:
    code, out, err = run("replay", tmp_path / path, *GEMINI)
    assert (code, out) == (1, "")
    assert str(tmp_path / path) in sentence(err)


@pytest.mark.parametrize("id_", ["", "00000000-0000-0000-0000-000000000000", "a b", "../up", "x" * 129, "\x1b[2J"])
@pytest.mark.parametrize("command", ["show", "resend"])
def test_a_session_id_that_cannot_be_is_1(run: Run, command: str, id_: str) -> None:
    code, _, err = run(command, id_)
    assert code == 1
    assert "session_id" in sentence(err)


EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\r\x08"


def test_control_characters_of_a_call_never_reach_the_terminal(run: Run, tmp_path: Path) -> None:
    frames: list[dict[str, object]] = [
        {"setup": {"model": f"models/{EVIL}"}},
        {"serverContent": {"inputTranscription": {"text": f"hello {EVIL} there"}}},
        {"serverContent": {"outputTranscription": {"text": f"answer {EVIL}"}}},
        {"toolCall": {"functionCalls": [{"id": "1", "name": f"tool{EVIL}", "args": {"x": EVIL}}]}},
        {"serverContent": {"turnComplete": True}},
    ]
    lines: list[dict[str, object]] = [
        {"dir": "sent" if "setup" in frame else "received", "message": frame} for frame in frames
    ]
    (tmp_path / "evil.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("replay", tmp_path / "evil.jsonl", *GEMINI)
    assert code == 0
    assert "hello" in out and "tool" in out
    assert all(c.isprintable() or c == "\n" for c in out), ascii(out)


# replay with one


def test_a_replay_prints_one_line_and_no_progress_where_there_is_no_terminal(
    receiver: Callable[..., Receiver],
) -> None:
    done = process("replay", BARGE_IN, *GEMINI, "--endpoint", receiver().url, "--instant")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "2 turns" in done.stdout


def test_a_replay_shows_its_progress_on_a_terminal(receiver: Callable[..., Receiver]) -> None:
    ours, theirs = pty.openpty()
    options = [str(BARGE_IN), *GEMINI, "--endpoint", receiver().url, "--speed", "20"]
    command = [sys.executable, "-m", "otel_voice.cli", "replay", *options]
    env = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True) as playing:
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
        assert playing.stdout is not None
        assert "2 turns" in playing.stdout.read()
    os.close(ours)
    assert b"replaying" in shown and b"15/15" in shown
    assert playing.returncode == 0


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # nobody holds the other end any more
        return b""


def test_a_replay_as_JSON_is_the_summary(receiver: Callable[..., Receiver]) -> None:
    done = process("replay", BARGE_IN, *GEMINI, "--endpoint", receiver().url, "--instant", "--json")
    summary = json.loads(done.stdout)
    assert (summary["turn_count"], summary["status"], summary["events_lost"]) == (2, "ended", 0)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:{port}", "nonsense", "http://127.0.0.1:abc", "ftp://x", ""])
def test_no_receiver_at_the_address_is_1_at_once(run: Run, endpoint: str) -> None:
    address = endpoint.format(port=free_port())
    code, _, err = run("replay", BARGE_IN, *GEMINI, "--endpoint", address, "--instant")
    if endpoint:
        assert code == 1
        assert address in sentence(err)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:8770", "localhost:8770", "localhost"])
def test_an_address_without_its_scheme_is_told_what_it_lacks(run: Run, endpoint: str) -> None:
    code, _, err = run("replay", BARGE_IN, *GEMINI, "--endpoint", endpoint, "--instant")
    assert code == 1
    assert f"--endpoint {endpoint} is no address of a receiver: it has to begin with http://" in sentence(err)


def test_another_server_at_the_address_is_1_with_what_it_said(run: Run, langfuse_server: LangfuseServer) -> None:
    langfuse_server.answer_next(Reply(404, b"\x1b[31mnot here\r\n"))
    code, _, err = run("replay", BARGE_IN, *GEMINI, "--endpoint", langfuse_server.base_url, "--instant")
    assert code == 1
    assert "404" in sentence(err)


def test_a_server_that_says_200_to_anything_is_1(run: Run, langfuse_server: LangfuseServer) -> None:
    langfuse_server.answer_next(Reply(200, b"<html>"))
    code, _, err = run("replay", BARGE_IN, *GEMINI, "--endpoint", langfuse_server.base_url, "--instant")
    assert code == 1
    assert langfuse_server.base_url in sentence(err)


def test_the_api_key_is_needed_where_one_is_set(receiver: Callable[..., Receiver]) -> None:
    key = {"OTEL_VOICE_API_KEY": "a-key-of-enough-length"}
    options = ("replay", BARGE_IN, *GEMINI, "--endpoint", receiver(**key).url, "--instant")
    without, with_key = process(*options), process(*options, env=key)
    assert (without.returncode, with_key.returncode) == (1, 0)
    assert "API key" in sentence(without.stderr)


# sessions, show, resend


def test_sessions_lists_the_newest_first(run: Run, filled: Path) -> None:
    code, out, err = run("sessions", "--data-dir", filled)
    assert (code, err) == (0, "")
    head, second, first = out.splitlines()
    assert head.split()[0] == "started" and head.split()[2] == "session"
    assert SECOND in second and FIRST in first
    assert "recording_ended" in first and "gemini-live-2.5-flash-preview" in first


def terminal(*arguments: object, columns: int, env: Mapping[str, str] | None = None) -> str:
    """What a terminal of so many columns gets."""
    ours, theirs = pty.openpty()
    given = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "TERM": "xterm", "COLUMNS": str(columns), **(env or {})}
    command = [sys.executable, "-m", "otel_voice.cli", *map(str, arguments)]
    with subprocess.Popen(command, env=given, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 120])
def test_sessions_fit_the_terminal_and_say_what_is_left_out(filled: Path, columns: int) -> None:
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal("sessions", "--data-dir", filled, columns=columns))
    head, second, first, *last = shown.splitlines()
    assert all(len(line.rstrip()) <= columns for line in shown.splitlines())
    assert re.match(r"started \(UTC\) +session ", head)
    # Each begins with what tells when, and with as much of the id as `show` takes.
    assert second.split()[2] == SECOND[:8] and first.split()[2] == FIRST[:8]
    assert ("gemini-live" in first, "tools" in head) == (columns == 120, columns == 120)
    assert (last != []) == (columns == 80) and all(line.endswith("--json has all") for line in last)


def test_times_are_of_a_zone_that_is_said(filled: Path) -> None:
    env = {"TZ": "Etc/GMT-5"}
    at = [line.split("  ")[0] for line in terminal("sessions", "--data-dir", filled, columns=200).splitlines()[1:3]]
    there = terminal("sessions", "--data-dir", filled, columns=200, env=env).splitlines()
    assert "started (+05)" in there[0]
    hours = [int(line.split(":")[0][-2:]) for line in (at[0], there[1])]
    assert (hours[1] - hours[0]) % 24 == 5
    assert " +05, trace" in process("show", FIRST, "--data-dir", filled, env=env).stdout


def test_nothing_is_left_out_or_cut_where_no_terminal_is(filled: Path) -> None:
    shown = process("sessions", "--data-dir", filled, env={"COLUMNS": "40"}).stdout
    assert FIRST in shown and "interr." in shown and "gemini-live-2.5-flash-preview" in shown and "\x1b" not in shown


def test_sessions_as_JSON_are_their_summaries(run: Run, filled: Path) -> None:
    _, out, _ = run("sessions", "--json", "--data-dir", filled)
    assert [(each["session_id"], each["turn_count"]) for each in json.loads(out)] == [(SECOND, 1), (FIRST, 2)]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (10**30, 2)])
def test_sessions_lists_no_more_than_asked_for(run: Run, filled: Path, limit: int, count: int) -> None:
    code, out, _ = run("sessions", "--json", "--limit", limit, "--data-dir", filled)
    assert (code, len(json.loads(out))) == (0, count)


def test_the_data_directory_may_come_from_the_environment(run: Run, filled: Path) -> None:
    code, out, _ = run("sessions", OTEL_VOICE_DATA_DIR=str(filled))
    assert code == 0
    assert FIRST in out


def test_show_prints_a_sessions_tree(run: Run, filled: Path) -> None:
    code, out, err = run("show", FIRST.upper(), "--data-dir", filled)
    assert (code, err) == (0, "")
    assert f"session {FIRST}: 2 turns" in out
    assert "We open at nine and close at" in out


JAEGER, LANGFUSE = "http://127.0.0.1:16686", "https://langfuse.example/project/p1"


@pytest.mark.parametrize(
    ("env", "links"),
    [
        ({}, {"jaeger": None, "langfuse": None}),
        ({"OTEL_VOICE_JAEGER_URL": f"{JAEGER}/"}, {"jaeger": f"{JAEGER}/trace/{{}}", "langfuse": None}),
        (
            {"OTEL_VOICE_JAEGER_URL": JAEGER, "OTEL_VOICE_LANGFUSE_URL": LANGFUSE},
            {"jaeger": f"{JAEGER}/trace/{{}}", "langfuse": f"{LANGFUSE}/traces/{{}}"},
        ),
    ],
    ids=["none", "Jaeger", "both"],
)
def test_show_has_links_to_the_trace_where_the_backends_addresses_are_set(
    filled: Path, env: dict[str, str], links: dict[str, str | None]
) -> None:
    wanted = {name: link and link.format(FIRST.replace("-", "")) for name, link in links.items()}
    document = json.loads(process("show", FIRST, "--json", "--data-dir", filled, env=env).stdout)
    assert document["links"] == wanted
    # On a line of its own however narrow the terminal is: one clicks on it, or copies it.
    lines = terminal("show", FIRST, "--data-dir", filled, columns=40, env=env).splitlines()
    shown = [line.partition(": ")[2] for line in lines if line.startswith(("in Jaeger", "in Langfuse"))]
    assert shown == [link for link in wanted.values() if link]


@pytest.mark.parametrize("capture", ["on", "off"])
def test_show_says_what_went_wrong(receiver: Callable[..., Receiver], capture: str) -> None:
    """Without content, only of which kind it was."""
    receiving = receiver()
    events: list[dict[str, object]] = [
        {"type": "turn_start", "turn_id": "t1"},
        {"type": "tool_call", "call_id": "c1", "name": "book", "arguments": {}},
        {"type": "tool_result", "call_id": "c1", "error": "the table is taken"},
        {"type": "error", "message": "the connection was lost", "code": "websocket_closed", "turn_id": "t1"},
        {"type": "interrupted", "turn_id": "t1", "source": "programmatic"},
        {"type": "turn_complete", "turn_id": "t1", "agent_text": "One moment."},
    ]
    made = httpx.post(f"{receiving.url}/v1/sessions", json={"session_id": FIRST}).json()
    body = {"source": "page", "token": made["token"], "events": [{"seq": n, **event} for n, event in enumerate(events)]}
    assert httpx.post(f"{receiving.url}/v1/sessions/{FIRST}/events", json=body).status_code == 204
    env = {"OTEL_VOICE_CAPTURE_CONTENT": capture}

    def shown() -> str:
        said = process("show", FIRST, "--data-dir", receiving.data_dir, env=env).stdout
        return said if "websocket_closed" in said else ""

    out = wait_for(shown, 20, "the error")
    assert "tool_error" in out and "interrupted by the app" in out
    assert ("err the connection was lost" in out) == (capture == "on")
    assert out.count("the table is taken") == (capture == "on")


@pytest.mark.parametrize(
    ("beginning", "found"), [(FIRST[:6], FIRST), (FIRST[:6].upper(), FIRST), ("s", SECOND), (SECOND, SECOND)]
)
def test_the_beginning_of_an_id_is_enough(
    run: Run, filled: Path, langfuse_server: LangfuseServer, beginning: str, found: str
) -> None:
    shown = json.loads(run("show", beginning, "--json", "--data-dir", filled)[1])
    assert shown["session_id"] == found
    code, out, _ = run("resend", beginning, "--data-dir", filled, **langfuse_server.env)
    assert (code, f"of session {found} " in out) == (0, True)


def test_the_beginning_of_several_ids_is_none_and_lists_them(
    receiver: Callable[..., Receiver], run: Run, langfuse_server: LangfuseServer
) -> None:
    receiving = receiver()
    ids = [f"call-{n}" for n in range(1, 8)] + ["call"]
    for id_ in ids:
        assert httpx.post(f"{receiving.url}/v1/sessions", json={"session_id": id_}).status_code == 201
    for command in ("show", "resend"):
        code, out, err = run(command, "call-", "--data-dir", receiving.data_dir, **langfuse_server.env)
        assert (code, out) == (1, "")
        assert sentence(err).endswith("begin with call-: call-1, call-2, call-3, call-4, call-5 and others\n")
    # An id that is another's beginning is itself.
    shown = json.loads(run("show", "call", "--json", "--data-dir", receiving.data_dir)[1])
    assert shown["session_id"] == "call"


def test_show_as_JSON_has_the_shape_of_a_dry_run(run: Run, filled: Path) -> None:
    _, shown, _ = run("show", SECOND, "--json", "--data-dir", filled)
    _, dry, _ = run("replay", TOOLS, "--provider", "openai-realtime", "--json", "--session-id", SECOND)
    documents = [json.loads(shown), json.loads(dry)]
    assert set(documents[0]) == set(documents[1])
    names = [sorted(span["name"] for span in document["spans"]) for document in documents]
    assert names[0] == names[1]


def test_show_marks_what_is_not_final_yet(receiver: Callable[..., Receiver], run: Run) -> None:
    receiving = receiver()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "otel_voice.cli", "replay", str(BARGE_IN), *GEMINI),
            *("--endpoint", receiving.url, "--session-id", FIRST, "--speed", "0.5"),
        ],
        env={"PYTHONPATH": str(COLLECTOR_CONFIG.parent)},
        stdout=subprocess.DEVNULL,
    ) as playing:

        def shown() -> str:
            return run("show", FIRST, "--data-dir", receiving.data_dir)[1]

        out = wait_for(lambda: found if "invoke_agent" in (found := shown()) else None, 20, "a turn")
        playing.kill()
    assert all("  open" in line for line in out.splitlines() if "voice_session" in line)


@pytest.mark.parametrize("command", [("sessions",), ("show", FIRST), ("resend", FIRST)], ids=lambda c: c[0])
def test_where_there_is_no_store_one_is_told_how_to_name_it(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    code, _, err = run(*command, "--data-dir", tmp_path / "nowhere", **env)
    assert code == 1
    assert "--data-dir" in sentence(err)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["show", "resend"])
def test_an_unknown_session_is_1(run: Run, filled: Path, command: str) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    code, _, err = run(command, "nobody", "--data-dir", filled, **env)
    hint = f"`otel-voice sessions --data-dir {filled}` lists those that are"
    assert (code, sentence(err)) == (1, f"otel-voice: session nobody is not in the store; {hint}\n")


def test_resend_without_an_address_names_the_settings(run: Run, filled: Path) -> None:
    code, _, err = run("resend", FIRST, "--data-dir", filled)
    assert code == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in sentence(err)


def test_resend_sends_what_the_next_hop_takes_and_says_what_it_refused(
    run: Run, filled: Path, langfuse_server: LangfuseServer
) -> None:
    langfuse_server.refuses = lambda span: span.name == "voice_session"
    for which, count in ((FIRST,), 1), (("--since", "1h"), 2):
        code, out, err = run("resend", *which, "--data-dir", filled, **langfuse_server.env)
        assert code == 1
        assert out.startswith("sent ")
        assert err.count("refused") == count
    assert {span.trace_id.hex() for span in langfuse_server.spans} >= {FIRST.replace("-", "")}
    assert len({span.trace_id for span in langfuse_server.spans}) == 2


@pytest.mark.parametrize("status", [401, 503])
def test_resend_says_what_the_next_hop_said(
    run: Run, filled: Path, langfuse_server: LangfuseServer, status: int
) -> None:
    langfuse_server.answer_next(Reply(status, b"\x1b[31mno\n"))
    code, out, err = run("resend", FIRST, "--data-dir", filled, **langfuse_server.env)
    assert (code, out) == (1, "")
    assert str(status) in sentence(err)


def test_resend_sends_a_session_that_was_never_exported(
    run: Run, filled: Path, langfuse_server: LangfuseServer
) -> None:
    code, out, _ = run("resend", FIRST, "--data-dir", filled, **langfuse_server.env)
    assert code == 0
    assert f"sent {len(langfuse_server.spans)} spans" in out
    assert {span.trace_id.hex() for span in langfuse_server.spans} == {FIRST.replace("-", "")}


def test_resend_sends_all_sessions_that_began_within_a_time(
    run: Run, filled: Path, langfuse_server: LangfuseServer
) -> None:
    code, out, _ = run("resend", "--since", "1h", "--data-dir", filled, **langfuse_server.env)
    assert (code, out.split()[:5]) == (0, ["sent", str(len(langfuse_server.spans)), "spans", "of", "2"])
    assert len({span.trace_id for span in langfuse_server.spans}) == 2
    code, out, _ = run("resend", "--since", "0m", "--data-dir", filled, **langfuse_server.env)
    assert (code, out.split()[:5]) == (0, ["sent", "0", "spans", "of", "0"])


def test_what_is_no_store_is_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database " * 1000)
    code, _, err = run("sessions", "--data-dir", tmp_path)
    assert code == 1
    assert "not a database" in sentence(err)


# serve


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"OTEL_VOICE_PORT": "http"}, "OTEL_VOICE_PORT"),
        ({"OTEL_VOICE_PORT": "70000"}, "OTEL_VOICE_PORT"),
        ({"OTEL_VOICE_HOST": "0.0.0.0"}, "OTEL_VOICE_API_KEY"),
        ({"OTEL_VOICE_API_KEY": "short"}, "OTEL_VOICE_API_KEY"),
        ({"OTEL_VOICE_TOKEN_KEY": "short"}, "OTEL_VOICE_TOKEN_KEY"),
        ({"OTEL_VOICE_ALLOWED_ORIGINS": "example.com"}, "OTEL_VOICE_ALLOWED_ORIGINS"),
        ({"OTEL_VOICE_SYNCHRONOUS": "OFF"}, "OTEL_VOICE_SYNCHRONOUS"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"LANGFUSE_PUBLIC_KEY": "pk"}, "LANGFUSE_SECRET_KEY"),
        ({"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk", "LANGFUSE_BASE_URL": "x"}, "LANGFUSE_BASE_URL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "TIMEOUT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_HEADERS": "novalue"}, "HEADERS"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "COMPRESSION"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_a_bad_setting_is_2_and_is_named_before_anything_starts(
    tmp_path: Path, env: dict[str, str], names: str
) -> None:
    done = process("serve", "--data-dir", tmp_path / "data", env=env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    # The SDK may have had its say about the headers.
    assert names in sentence(done.stderr.splitlines(keepends=True)[-1])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("port", ["-1", "65536", "99999999999"])
def test_a_port_that_cannot_be_is_2(tmp_path: Path, port: str) -> None:
    done = process("serve", "--data-dir", tmp_path / "data", "--port", port, deadline_s=3)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "port" in done.stderr


def test_a_port_in_use_is_1_and_is_named(tmp_path: Path, langfuse_server: LangfuseServer) -> None:
    port = langfuse_server.base_url.rpartition(":")[2]
    done = process("serve", "--port", port, "--data-dir", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert port in done.stderr and "in use" in done.stderr


def test_a_data_directory_in_use_is_1_and_is_named(tmp_path: Path) -> None:
    with lock(tmp_path):
        done = process("serve", "--data-dir", tmp_path)
    assert done.returncode == 1, done.stderr
    assert str(tmp_path) in sentence(done.stderr)


def test_a_data_directory_that_is_a_file_is_1_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = process("serve", "--data-dir", tmp_path / "file")
    assert done.returncode == 1, done.stderr
    assert str(tmp_path / "file") in sentence(done.stderr)


def test_a_damaged_store_is_set_aside_with_a_message_and_a_new_one_begun(
    receiver: Callable[..., Receiver], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / FILE).write_text("no database " * 1000)
    running = receiver()
    assert f"set aside as {FILE}.damaged-1" in running.log()
    assert (data / f"{FILE}.damaged-1").read_text() == "no database " * 1000
    assert httpx.post(f"{running.url}/v1/sessions", json={}).status_code == 201


@pytest.mark.parametrize("arguments", [("sessions", "--json"), ("--help",)], ids=lambda arguments: arguments[0])
def test_a_reader_that_has_read_enough_is_no_error(filled: Path, arguments: tuple[str, ...]) -> None:
    where = ["--data-dir", str(filled)] if arguments[0] == "sessions" else []
    command = [sys.executable, "-m", "otel_voice.cli", *arguments, *where]
    env = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        assert writing.stdout is not None and writing.stderr is not None
        writing.stdout.close()
        assert b"Traceback" not in writing.stderr.read()


# dead-letters


@pytest.fixture
def dead(tmp_path: Path, langfuse_server: LangfuseServer, receiver: Callable[..., Receiver]) -> Path:
    """A data directory that a receiver left behind, whose next hop refused every span of a session."""
    langfuse_server.refuses, langfuse_server.refusal = lambda span: True, Reply(422, b"no \x1b[31mroom")
    running = receiver(**langfuse_server.env)
    options = ("--endpoint", running.url, "--session-id", FIRST, "--instant")
    assert process("replay", BARGE_IN, *GEMINI, *options).returncode == 0
    reader = Reader(running.data_dir)
    wait_for(lambda: not reader.open_sessions(), 20, "the spans")
    wait_for(lambda: not reader.ledger().pending, 20, "all of them to be refused")
    reader.close()
    running.stop()
    return running.data_dir


def test_dead_letters_are_listed_with_session_span_and_reason(run: Run, dead: Path) -> None:
    code, out, err = run("dead-letters", "--data-dir", dead)
    assert (code, err) == (0, "")
    head, first, *_ = out.splitlines()
    assert re.sub(r" \(.*?\)", "", head).split() == ["number", "refused", "session", "span", "reason"]
    assert FIRST in first and "422" in first and "\x1b" not in out
    assert any("voice_session" in line for line in out.splitlines())


def test_no_more_dead_letters_are_listed_than_asked_for_and_the_others_are_counted(run: Run, dead: Path) -> None:
    count = len(json.loads(run("dead-letters", "list", "--json", "--data-dir", dead)[1]))
    *_, last = run("dead-letters", "--limit", 1, "--data-dir", dead)[1].splitlines()
    assert last == f"and {count - 1} more: --limit shows them"


def test_dead_letters_as_JSON_and_one_of_them_whole(run: Run, dead: Path) -> None:
    listed = json.loads(run("dead-letters", "--json", "--data-dir", dead)[1])
    assert {each["trace_id"] for each in listed} == {FIRST.replace("-", "")}
    number, name = listed[0]["number"], listed[0]["name"]
    whole = json.loads(run("dead-letters", "--data-dir", dead, "show", number)[1])
    (span,) = whole["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (span["name"], span["traceId"], span["spanId"]) == (name, listed[0]["trace_id"], listed[0]["span_id"])


def test_dead_letters_that_are_retried_go_out_of_a_receiver_that_runs(
    run: Run, dead: Path, langfuse_server: LangfuseServer, receiver: Callable[..., Receiver]
) -> None:
    names = sorted(each["name"] for each in json.loads(run("dead-letters", "--json", "--data-dir", dead)[1]))
    langfuse_server.refuses = lambda span: False
    receiver(**langfuse_server.env)
    code, out, _ = run("dead-letters", "--data-dir", dead, "retry", "--all")
    assert (code, out) == (0, f"{len(names)} dead letters will be sent again\n")
    wait_for(lambda: len(langfuse_server.spans) == len(names), 15, "the spans")
    assert sorted(span.name for span in langfuse_server.spans) == names
    assert run("dead-letters", "--data-dir", dead)[1] == "no dead letters\n"


def test_dead_letters_that_are_dropped_are_in_the_ledger(run: Run, dead: Path) -> None:
    numbers = [each["number"] for each in json.loads(run("dead-letters", "--json", "--data-dir", dead)[1])]
    assert run("dead-letters", "drop", *numbers[:2], "--data-dir", dead)[1] == "2 dead letters dropped\n"
    reader = Reader(dead)
    ledger = reader.counted_ledger()
    reader.close()
    assert ledger.adds_up
    assert (ledger.dead, ledger.dropped) == (len(numbers) - 2, 2)


def test_another_command_is_told_with_what_it_needs(run: Run, filled: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a folder"
    odd.symlink_to(filled)
    assert f"`otel-voice sessions --data-dir '{odd}'`" in run("show", "nobody", "--data-dir", odd)[2]
    assert "`otel-voice dead-letters --data-dir" in run("dead-letters", "show", 7, "--data-dir", filled)[2]
    # What the environment says, the next command hears as well.
    assert "`otel-voice sessions`" in run("show", "nobody", OTEL_VOICE_DATA_DIR=str(filled))[2]


@pytest.mark.parametrize("doing", ["show", "retry", "drop"])
def test_a_dead_letter_that_is_none_is_1_and_nothing_is_done(run: Run, filled: Path, doing: str) -> None:
    code, out, err = run("dead-letters", "--data-dir", filled, doing, 7)
    assert (code, out) == (1, "")
    assert "no dead letter 7" in sentence(err)
