"""Records a data directory as a release leaves it: `python tests/stores/record.py CHECKOUT`, with the release's own
code in CHECKOUT, writes N.sql and N.json here, N being its schema. README.md beside it says when."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORDING = HERE.parent / "recordings" / "gemini_barge_in.jsonl"
# One of each kind: delivered, refused by the next hop, not taken yet, and one that goes on.
DELIVERED, DEAD, PENDING, OPEN = (f"0af76519-16cd-43dd-8448-eb211c80319{n}" for n in "1234")
SOURCE = "page"


class NextHop(BaseHTTPRequestHandler):
    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(NextHop.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def record(checkout: Path, folder: Path) -> tuple[str, dict[str, Any], int]:
    """The store as SQL, what the release says of each session, and its schema."""
    hop = ThreadingHTTPServer(("127.0.0.1", 0), NextHop)
    threading.Thread(target=hop.serve_forever, daemon=True).start()
    file = folder / "data" / "otel-voice.db"
    command = [sys.executable, "-m", "otel_voice.cli"]
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{hop.server_port}"}
    port = hop.server_port + 1
    serve = [*command, "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    with subprocess.Popen(serve, cwd=checkout, env=env) as receiver:
        url = f"http://127.0.0.1:{port}/v1/sessions"
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        replay = ("replay", RECORDING, "--provider", "gemini-live", "--session-id", DELIVERED, "--instant")
        subprocess.run([*command, *replay, "--endpoint", f"http://127.0.0.1:{port}"], cwd=checkout, check=True)
        wait_for(lambda: is_over(file, DELIVERED) and not count(file, "outbox"))
        NextHop.status = 422
        call(url, DEAD, "what nobody takes")
        wait_for(lambda: is_over(file, DEAD) and not count(file, "outbox"))
        NextHop.status = 503
        call(url, PENDING, "what waits")
        wait_for(lambda: is_over(file, PENDING))
        call(url, OPEN, "what goes on", ends=False)
        wait_for(lambda: count(file, f"sessions WHERE id = '{OPEN}' AND made > 0") == 1)
        said = {id_: ask(f"{url}/{id_}/spans") for id_ in (DELIVERED, DEAD, PENDING, OPEN)}
        receiver.terminate()
    hop.shutdown()
    with sqlite3.connect(file) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return "\n".join(dump(db)) + "\n", said, version


def call(url: str, id_: str, said: str, ends: bool = True) -> None:
    made = ask(url, {"session_id": id_, "user_id": "u-17", "agent_name": "concierge"})
    now = time.time() * 1000
    events: list[dict[str, object]] = [
        {"type": "turn_start", "turn_id": "t1"},
        {"type": "tool_call", "call_id": "c1", "name": "get_weather", "arguments": {"city": "Rome"}},
        {"type": "tool_result", "call_id": "c1", "result": {"sky": "clear"}},
        {"type": "turn_complete", "turn_id": "t1", "user_text": said, "agent_text": "Clear and warm."},
        {"type": "turn_start", "turn_id": "t2"},
    ]
    for seq, event in enumerate(events):
        event |= {"seq": seq, "ts": now + 100 * seq}
    ask(f"{url}/{id_}/events", {"source": SOURCE, "token": made["token"], "events": events})
    if ends:
        ask(f"{url}/{id_}/end", {"source": SOURCE, "token": made["token"], "last_seq": len(events) - 1})


def ask(url: str, body: object = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    except OSError:
        return False


def is_over(file: Path, id_: str) -> bool:
    return not count(file, f"sessions WHERE id = '{id_}' AND due IS NOT NULL")


def count(file: Path, rows: str) -> int:
    with sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True) as db:
        return int(db.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit("waited a minute in vain")
        time.sleep(0.1)


def dump(db: sqlite3.Connection) -> Iterator[str]:
    """sqlite3's own dump cannot be read back where there is a virtual table."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    yield f"BEGIN;\nPRAGMA user_version = {version};"
    made: list[tuple[str, str, str]] = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "AND name NOT LIKE 'words\\__%' ESCAPE '\\' ORDER BY rowid"
    ).fetchall()
    for _, _, sql in made:
        yield f"{sql};"
    for name in ("sqlite_sequence", *(name for type_, name, _ in made if type_ == "table")):
        columns = [column for _, column, *_ in db.execute(f"PRAGMA table_info({name})")]
        columns = ["rowid", *columns] if name == "words" else columns
        quoted = " || ', ' || ".join(f"quote({column})" for column in columns)
        for (values,) in db.execute(f"SELECT {quoted} FROM {name}").fetchall():
            yield f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({values});"
    yield "COMMIT;"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sql, said, version = record(Path(sys.argv[1]), Path(folder))
    (HERE / f"{version}.sql").write_text(sql)
    spans = {id_: sorted([span["name"], span["span_id"]] for span in of["spans"]) for id_, of in said.items()}
    (HERE / f"{version}.json").write_text(json.dumps(spans, indent=1) + "\n")
    print(f"schema {version}: {len(sql)} characters")


if __name__ == "__main__":
    main()
