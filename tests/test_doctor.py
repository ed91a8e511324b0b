"""Doctor: what is wrong between here and the backend is found, said with how to mend it, and nothing secret with it."""

from __future__ import annotations

import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from otel_voice import display
from otel_voice.doctor import examine, exit_code
from otel_voice.edge import TIME_HEADER
from otel_voice.findings import Finding
from otel_voice.probe import ENVIRONMENT, PROBE, Limits
from otel_voice.settings import Settings, read
from otel_voice.store import FILE, check, lock
from tests.real import COLLECTOR_CONFIG, Collector, Jaeger, LangfuseServer, Receiver, Reply, free_port
from tests.running import damage

pytestmark = pytest.mark.anyio

SOON = Limits(answer_s=2, read_back_s=2)
PAGE = {"Content-Type": "text/html; charset=utf-8"}
DATE_S = 1_790_000_000.0
# A local disk with room, whatever the machine's own has.
ROOM = 10 * 2**30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With a store in it, on which nobody works."""
    check(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def silent(langfuse_server: LangfuseServer) -> Iterator[LangfuseServer]:
    """Listens and never answers."""
    over = threading.Event()
    langfuse_server.standing = Reply(200, hang_on=over)
    yield langfuse_server
    over.set()


async def looked(data_dir: Path, env: Mapping[str, str] | None = None, **options: Any) -> dict[str, Finding]:
    """What doctor finds, by name; in no test it may say a key or a header's value."""
    given = {"OTEL_VOICE_PORT": str(free_port()), **(env or {})}
    settings = read(given, data_dir=str(data_dir))
    chosen = {"limits": SOON, "free": lambda _: ROOM, **options}
    found = [finding async for finding in examine(settings, given, **chosen)]
    for secret in secrets(settings, given):
        assert not [finding for finding in found if secret in finding.text], secret
    return {finding.name: finding for finding in found}


def secrets(settings: Settings, env: Mapping[str, str]) -> list[str]:
    keys = [env[name] for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "OTEL_VOICE_API_KEY") if name in env]
    headers = settings.export.headers if settings.export else {}
    return keys + [value.split()[-1] for name, value in headers.items() if name == "authorization"]


def execute(data_dir: Path, *statements: str) -> None:
    with closing(sqlite3.connect(data_dir / FILE, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def files(directory: Path) -> list[str]:
    """Without those that SQLite keeps beside its own."""
    names = (path.name for path in directory.iterdir())
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def endpoint(url: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url}


def langfuse_env(url: str) -> dict[str, str]:
    return {"LANGFUSE_BASE_URL": url, "LANGFUSE_PUBLIC_KEY": "pk-lf-nobody", "LANGFUSE_SECRET_KEY": "sk-lf-nobody"}


# All of it


@pytest.mark.components
async def test_a_probe_goes_through_the_collector_to_Jaeger_and_to_Langfuse_and_is_read_back_from_both(
    receiver: Callable[..., Receiver],
    collector: Callable[..., Collector],
    jaeger: Jaeger,
    langfuse_server: LangfuseServer,
) -> None:
    both = {"OTEL_VOICE_COLLECTOR_EXPORTERS": "[otlp_grpc/jaeger, otlp_http/langfuse]"}
    to = collector(OTEL_VOICE_JAEGER_ENDPOINT=jaeger.otlp_grpc_endpoint, **both, **langfuse_server.env)
    works = receiver(**endpoint(to.otlp_http_endpoint))
    env = {**endpoint(to.otlp_http_endpoint), **langfuse_server.env}
    env |= {"OTEL_VOICE_PORT": str(works.port), "OTEL_VOICE_JAEGER_URL": jaeger.query_url}
    settings = read(env, data_dir=str(works.data_dir))
    found = [finding async for finding in examine(settings, env, free=lambda _: ROOM)]
    names = [
        "settings",
        "store",
        "ledger",
        "disk",
        "receiver",
        "next hop",
        "langfuse",
        "read back",
        "read back",
        "clock",
    ]
    assert [finding.name for finding in found] == names
    assert {finding.state for finding in found} == {"ok"}, found
    assert exit_code(found) == 0
    (probe,) = langfuse_server.spans
    assert probe.name == PROBE
    assert jaeger.trace(probe.trace_id.hex())


async def test_where_nothing_is_set_up_every_line_says_what_to_do_and_nothing_is_made(tmp_path: Path) -> None:
    found = await looked(tmp_path / "none")
    assert {name: finding.state for name, finding in found.items()} == {
        "settings": "ok",
        "store": "look",
        "ledger": "look",
        "disk": "ok",
        "receiver": "look",
        "next hop": "look",
        "read back": "look",
        "clock": "look",
    }
    assert f"`otel-voice serve --data-dir {tmp_path / 'none'}` makes one" in found["store"].text
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found["next hop"].text
    assert files(tmp_path) == []


def test_only_what_needs_mending_makes_the_exit_code_1() -> None:
    ok, look, mend = Finding("a", "ok", ""), Finding("b", "look", ""), Finding("c", "mend", "")
    assert [exit_code(found) for found in ([], [ok], [ok, look], [look, mend, ok])] == [0, 0, 0, 1]


async def test_what_may_take_a_while_is_said_before(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    said: list[str] = []
    await looked(data_dir, langfuse_server.env, waiting=said.append)
    assert said[0] == "reading the store"
    assert said[-1] == "waiting up to 2 s for the probe span in Langfuse"


# The resource


@pytest.mark.parametrize(
    "attributes, said",
    [
        ("deployment.environment.name=Production", "deployment.environment.name=Production is none"),
        ("deployment.environment=eu%20west", "deployment.environment=eu west is none"),
        (f"deployment.environment.name={'x' * 41}", "up to 40 of a-z, 0-9, - and _"),
        ("langfuse.environment=langfuse-x,deployment.environment.name=ok", "langfuse.environment=langfuse-x is none"),
        ("langfuse.environment=ok,deployment.environment.name=Production", None),
        (f"deployment.environment.name={'x' * 40}", None),
        ("service.version=1.0", None),
    ],
)
async def test_an_environment_that_langfuse_does_not_take_is_worth_a_look(
    data_dir: Path, langfuse_server: LangfuseServer, attributes: str, said: str | None
) -> None:
    found = await looked(data_dir, langfuse_server.env | {"OTEL_RESOURCE_ATTRIBUTES": attributes})
    assert (said is None) == ("resource" not in found)
    if said is not None:
        assert found["resource"].state == "look"
        assert "Langfuse files calls under `default`" in found["resource"].text and said in found["resource"].text


async def test_where_there_is_no_langfuse_every_environment_will_do(data_dir: Path) -> None:
    env, link = {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=Production"}, "https://cloud.langfuse.com/p"
    assert "resource" not in await looked(data_dir, env)
    assert "resource" in await looked(data_dir, env | {"OTEL_VOICE_LANGFUSE_URL": link})


# The store


async def test_a_store_reads_well_and_asking_leaves_the_directory_as_it_was(data_dir: Path) -> None:
    before = files(data_dir)
    found = await looked(data_dir)
    assert found["store"].state == "ok"
    assert found["ledger"].state == "ok"
    assert "events: 0 accepted = 0 mapped + 0 open; spans: 0 made = 0 delivered" in found["ledger"].text
    assert files(data_dir) == before


@pytest.mark.parametrize("at", [0, 60_000], ids=["its head", "a page in the middle"])
async def test_a_damaged_store_is_found(data_dir: Path, at: int) -> None:
    execute(data_dir, "INSERT INTO outbox (session, body) VALUES (0, zeroblob(100000))", "PRAGMA journal_mode = DELETE")
    with (data_dir / FILE).open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 10_000)
    found = await looked(data_dir)
    assert found["store"].state == "mend"
    assert "the receiver sets it aside" in found["store"].text
    assert found["ledger"].text.startswith("not asked")


async def test_a_damaged_index_of_words_is_no_damaged_store(data_dir: Path) -> None:
    execute(data_dir, "PRAGMA journal_mode = DELETE")
    damage(data_dir, "words_data")
    found = await looked(data_dir)
    assert (found["store"].state, found["ledger"].state) == ("look", "ok")
    assert "the receiver begins it anew" in found["store"].text


@pytest.mark.parametrize(("version", "says"), [(2, "before the first release (schema 2"), (99, "newer version")])
async def test_a_store_of_another_version_is_found(data_dir: Path, version: int, says: str) -> None:
    execute(data_dir, f"PRAGMA user_version = {version}")
    found = await looked(data_dir)
    assert found["store"].state == "mend"
    assert says in found["store"].text and "set aside" not in found["store"].text
    assert found["ledger"].text.startswith("not asked")


async def test_a_store_that_the_next_start_carries_over_is_no_fault(data_dir: Path) -> None:
    execute(data_dir, "PRAGMA user_version = 3")
    found = await looked(data_dir)
    assert found["store"].state == "look"
    assert "the next start carries it over" in found["store"].text


async def test_a_damaged_store_that_was_set_aside_is_not_forgotten(data_dir: Path) -> None:
    for suffix in ("1", "1-wal", "2"):
        (data_dir / f"{FILE}.damaged-{suffix}").touch()
    found = await looked(data_dir)
    assert found["store"].state == "look"
    assert f"what is left in {FILE}.damaged-1 can be read" in found["store"].text


async def test_a_store_that_is_no_file_is_found(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert (await looked(tmp_path))["store"].state == "mend"
    (tmp_path / "file").touch()
    found = await looked(tmp_path / "file")
    assert found["store"].state == "mend"
    assert "Not a directory" in found["store"].text


# Root may read and write everything, unless it is told not to.
AS_A_USER = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.mark.parametrize("mode, word", [(0o000, "read"), (0o400, "written")])
def test_a_store_of_another_user_is_found(data_dir: Path, mode: int, word: str) -> None:
    (data_dir / FILE).chmod(mode)
    command = [*AS_A_USER, sys.executable, "-m", "otel_voice.cli", "doctor", "--data-dir", str(data_dir)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(COLLECTOR_CONFIG.parent)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("mend")]
    assert f"cannot be {word} by this user" in line


async def test_the_ledger_has_both_lines_while_the_receiver_works(receiver: Callable[..., Receiver]) -> None:
    works = receiver()
    found = await looked(works.data_dir)
    assert found["ledger"].state == "ok"
    assert "accepted = " in found["ledger"].text and "made = " in found["ledger"].text


async def test_pending_spans_are_worth_a_look(data_dir: Path) -> None:
    execute(
        data_dir,
        "INSERT INTO outbox (session, body) VALUES (0, x'')",
        "UPDATE counters SET value = 1 WHERE name = 'made'",
    )
    found = await looked(data_dir)
    assert found["ledger"].state == "look"
    assert "the receiver's own environment" in found["ledger"].text


@pytest.mark.parametrize("counter", ["accepted", "mapped", "erased", "made", "delivered", "dead", "dropped"])
async def test_a_ledger_that_does_not_add_up_is_found(data_dir: Path, counter: str) -> None:
    execute(data_dir, f"UPDATE counters SET value = value + 1 WHERE name = '{counter}'")
    found = await looked(data_dir)
    assert found["ledger"].state == "mend"
    assert "lost or counted twice" in found["ledger"].text


async def test_dead_letters_are_worth_a_look(data_dir: Path) -> None:
    letter = "INSERT INTO dead_letters (session, body, reason) VALUES (0, x'', '400')"
    execute(data_dir, letter, "UPDATE counters SET value = 1 WHERE name IN ('made', 'dead')")
    found = await looked(data_dir)
    assert found["ledger"].state == "look"
    assert (
        "1 dead letters" in found["ledger"].text
        and f"`otel-voice dead-letters --data-dir {data_dir}`" in found["ledger"].text
    )


# The disk


@pytest.mark.parametrize(
    "free_mib, most_mib, state",
    [
        (63, 1024, "mend"),
        (64, 16, "look"),
        (1023, 16, "look"),
        (1024, 16, "ok"),
        (2047, 2048, "look"),
        (2048, 2048, "ok"),
    ],
)
async def test_a_disk_that_fills_up_is_found(tmp_path: Path, free_mib: int, most_mib: int, state: str) -> None:
    most = {"OTEL_VOICE_MAX_STORE_MIB": str(most_mib)}
    found = await looked(tmp_path, most, free=lambda _: free_mib * 2**20)
    assert found["disk"].state == state
    assert f"{free_mib} MiB free; the store takes 0 of at most {most_mib} MiB" in found["disk"].text


async def test_a_store_above_its_size_is_worth_a_look(data_dir: Path) -> None:
    execute(data_dir, "INSERT INTO log VALUES (1, 1, NULL, 0, 0, zeroblob(17 * 1024 * 1024))")
    found = await looked(data_dir, {"OTEL_VOICE_MAX_STORE_MIB": "16"})
    assert found["disk"].state == "look"
    assert "OTEL_VOICE_MAX_STORE_MIB" in found["disk"].text


async def test_the_disk_is_that_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    rooms = {tmp_path: 123 * 2**20}
    found = await looked(tmp_path / "not" / "yet", free=lambda path: rooms[path])
    assert found["disk"].text.startswith("123 MiB free")


async def test_a_disk_that_says_nothing_is_found(tmp_path: Path) -> None:
    def free(_: Path) -> int:
        raise OSError(5, "Input/output error")

    found = await looked(tmp_path, free=free)
    assert found["disk"].state == "mend"
    assert "Input/output error" in found["disk"].text


# The receiver


async def test_a_receiver_that_is_ready_is_ok(receiver: Callable[..., Receiver]) -> None:
    works = receiver()
    found = await looked(works.data_dir, {"OTEL_VOICE_PORT": str(works.port)})
    assert found["receiver"] == Finding("receiver", "ok", f"{works.url} is ready")


async def test_a_receiver_on_another_port_is_worth_a_look(receiver: Callable[..., Receiver]) -> None:
    found = await looked(receiver().data_dir)
    assert found["receiver"].state == "look"
    assert "it may have another --port" in found["receiver"].text


async def test_a_receiver_of_another_directory_is_worth_a_look(
    receiver: Callable[..., Receiver], tmp_path: Path
) -> None:
    found = await looked(tmp_path / "other", {"OTEL_VOICE_PORT": str(receiver().port)})
    assert found["receiver"].state == "look"
    assert "it may have another --data-dir" in found["receiver"].text


async def test_no_receiver_is_worth_a_look(data_dir: Path) -> None:
    found = await looked(data_dir)
    assert found["receiver"].text == f"none works on {data_dir}: `otel-voice serve --data-dir {data_dir}` starts one"


async def test_another_program_on_the_receivers_port_is_worth_a_look(
    data_dir: Path, langfuse_server: LangfuseServer
) -> None:
    found = await looked(data_dir, {"OTEL_VOICE_PORT": langfuse_server.base_url.rpartition(":")[2]})
    assert found["receiver"].state == "look"
    assert "another program answers" in found["receiver"].text


async def test_a_receiver_that_is_not_ready_says_why(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    langfuse_server.standing = Reply(503, b"the store is full (1024 MiB)\n", {TIME_HEADER: "1790000000000.000"})
    with lock(data_dir):
        found = await looked(data_dir, {"OTEL_VOICE_PORT": langfuse_server.base_url.rpartition(":")[2]})
    assert found["receiver"].state == "mend"
    assert found["receiver"].text.endswith("is not ready: 503 the store is full (1024 MiB)")


# The public address


async def test_without_a_public_address_none_is_asked(data_dir: Path) -> None:
    assert "public" not in await looked(data_dir)


@pytest.mark.parametrize("env", [{}, {"OTEL_VOICE_API_KEY": "a-key-of-the-apps-backend"}], ids=["no key", "a key"])
async def test_a_public_address_that_leads_to_a_receiver_is_ok(
    receiver: Callable[..., Receiver], env: dict[str, str]
) -> None:
    works = receiver(**env)
    found = await looked(works.data_dir, {"OTEL_VOICE_PUBLIC_URL": f"{works.url}/"})
    assert found["public"] == Finding("public", "ok", f"pages post to {works.url}, where a receiver answers")


async def test_a_proxy_that_passes_its_own_path_on_is_found(receiver: Callable[..., Receiver]) -> None:
    works = receiver()
    found = await looked(works.data_dir, {"OTEL_VOICE_PUBLIC_URL": f"{works.url}/otel"})
    assert found["public"].state == "mend"
    assert "the proxy has to take off its own path" in found["public"].text


async def test_a_public_address_where_no_receiver_answers_is_worth_a_look(
    data_dir: Path, langfuse_server: LangfuseServer
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for url, said in ((nobody, "ConnectError"), (langfuse_server.base_url, "no receiver answers, but 4")):
        found = await looked(data_dir, {"OTEL_VOICE_PUBLIC_URL": url})
        assert found["public"].state == "look"
        assert f"pages post to {url}" in found["public"].text and said in found["public"].text


# The next hop


async def test_the_probe_is_a_root_of_its_own_apart_from_real_calls(
    data_dir: Path, langfuse_server: LangfuseServer
) -> None:
    env = langfuse_server.env | {"OTEL_SERVICE_NAME": "concierge"}
    found = await looked(data_dir, env)
    assert found["next hop"].state == "ok"
    (request,) = langfuse_server.requests
    (probe,) = request.spans
    attributes = {each.key: each.value.string_value for each in probe.attributes}
    assert (probe.name, probe.parent_span_id) == (PROBE, b"")
    assert attributes == {"langfuse.trace.name": PROBE, "langfuse.environment": ENVIRONMENT}
    resource = {each.key: each.value.string_value for each in request.export.resource_spans[0].resource.attributes}
    assert resource == {"service.name": "concierge"}


async def test_to_send_nowhere_can_be_wanted(data_dir: Path) -> None:
    found = await looked(data_dir, {"OTEL_TRACES_EXPORTER": "none"})
    assert found["next hop"].state == "ok"


async def test_nobody_at_the_next_hop_is_found_and_what_depends_on_it_is_not_asked(data_dir: Path) -> None:
    port = free_port()
    found = await looked(data_dir, endpoint(f"http://127.0.0.1:{port}"))
    assert found["next hop"].state == "mend"
    assert f"is the collector running at 127.0.0.1:{port}" in found["next hop"].text
    assert found["read back"] == Finding("read back", "look", "not asked: no probe span is on its way")
    assert found["clock"].state == "look"


async def test_nobody_at_langfuses_address_is_no_collector(data_dir: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await looked(data_dir, langfuse_env(url))
    assert found["next hop"].state == "mend"
    assert "is LANGFUSE_BASE_URL right, and is Langfuse up?" in found["next hop"].text
    assert "collector" not in found["next hop"].text


async def test_a_name_that_nobody_knows_is_told_as_that(data_dir: Path) -> None:
    for env in (langfuse_env("http://nowhere.invalid"), endpoint("http://nowhere.invalid:4318")):
        found = await looked(data_dir, env, limits=Limits(answer_s=10, read_back_s=0.1))
        if "no answer within" in found["next hop"].text:
            sentence = "no name server answers here, not even that it knows no such name"
            pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
        assert "no name server knows nowhere.invalid: is the address right" in found["next hop"].text
        assert "collector" not in found["next hop"].text


@pytest.mark.parametrize(
    "reply, said, hint",
    [
        (Reply(401), "401", "the keys are wrong"),
        (Reply(403), "403", "the keys are wrong"),
        (Reply(404), "404", "the address is wrong"),
        (Reply(405), "405", "the address is wrong"),
        (Reply(301, b"", {"Location": "https://elsewhere.example"}), "301", "the address is wrong"),
        (Reply(200, b"<html>", PAGE), "200 with a web page", "the address is wrong"),
        (Reply(400, b'{"message": "no"}'), "400", "its own log says why"),
        (Reply(200, b'{"partialSuccess": {"rejectedSpans": "1"}}'), "1 rejected", "its own log says why"),
        (Reply(503), "503", "it takes nothing now"),
        (Reply(200, drips=True), "no answer within 0.5 s", "too slow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_next_hop_that_does_not_take_the_probe_is_found(
    data_dir: Path, langfuse_server: LangfuseServer, reply: Reply, said: str, hint: str
) -> None:
    langfuse_server.standing = reply
    found = await looked(data_dir, endpoint(langfuse_server.base_url), limits=Limits(answer_s=0.5))
    assert found["next hop"].state == "mend"
    assert said in found["next hop"].text and hint in found["next hop"].text


async def test_a_silent_next_hop_and_a_silent_Langfuse_take_no_longer_than_they_may(
    data_dir: Path, silent: LangfuseServer
) -> None:
    began = time.monotonic()
    found = await looked(data_dir, silent.env, limits=Limits(answer_s=0.5))
    assert time.monotonic() - began < 5
    assert found["next hop"].state == found["langfuse"].state == "mend"
    assert "no answer within 0.5 s" in found["next hop"].text
    assert "no answer within 0.5 s" in found["langfuse"].text


async def test_https_where_http_is_spoken_is_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    found = await looked(data_dir, endpoint(langfuse_server.base_url.replace("http:", "https:")))
    assert found["next hop"].state == "mend"
    assert "does it speak https" in found["next hop"].text


async def test_a_secret_that_the_next_hop_repeats_is_not_shown(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    value = "a-token-that-is-nobodys-business"
    langfuse_server.standing = Reply(401, f"who is Bearer {value}?".encode())
    env = endpoint(langfuse_server.base_url) | {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{value}"}
    # Half a pair of other keys must not keep this one from being hidden.
    found = await looked(data_dir, env | {"LANGFUSE_PUBLIC_KEY": "pk-lf-test"})
    assert "who is [secret]?" in found["next hop"].text


# Langfuse


async def test_good_keys_are_known_by_their_project_wherever_spans_go(
    data_dir: Path, langfuse_server: LangfuseServer
) -> None:
    env = langfuse_server.env | endpoint(f"http://127.0.0.1:{free_port()}")
    found = await looked(data_dir, env)
    assert found["langfuse"].state == "ok"
    assert found["langfuse"].text == f"{langfuse_server.base_url} takes the keys, which are of the project voice"


async def test_wrong_keys_are_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    found = await looked(data_dir, langfuse_server.env | {"LANGFUSE_SECRET_KEY": "sk-lf-of-another-project"})
    assert found["langfuse"].state == found["next hop"].state == "mend"
    assert "refuses the keys (401" in found["langfuse"].text
    assert "LANGFUSE_BASE_URL" in found["langfuse"].text
    assert found["read back"] == Finding("read back", "look", "not asked: Langfuse could not be asked")


async def test_half_a_pair_of_keys_is_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    env = langfuse_server.env | endpoint(langfuse_server.base_url)
    del env["LANGFUSE_SECRET_KEY"]
    found = await looked(data_dir, env)
    assert found["langfuse"] == Finding("langfuse", "mend", "LANGFUSE_SECRET_KEY is not set: Langfuse needs both keys")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(404),
        Reply(200, b"<html>", PAGE),
        Reply(200, b'{"data": 1}'),
        Reply(301, b"", {"Location": "/"}),
    ],
    ids=["500", "404", "a web page", "other JSON", "moved"],
)
async def test_a_Langfuse_that_is_none_is_found(data_dir: Path, langfuse_server: LangfuseServer, reply: Reply) -> None:
    langfuse_server.standing = reply
    found = await looked(data_dir, langfuse_server.env)
    assert found["langfuse"].state == "mend"
    assert "is LANGFUSE_BASE_URL right" in found["langfuse"].text


async def test_a_Langfuse_that_is_down_is_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    langfuse_server.down()
    found = await looked(data_dir, langfuse_server.env)
    assert found["langfuse"].state == "mend"
    assert "ConnectError" in found["langfuse"].text


def test_asking_Langfuse_installs_no_tracer_provider(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from otel_voice import doctor, settings\n"
        "async def states():\n"
        "    chosen = settings.read(os.environ, data_dir=sys.argv[1])\n"
        "    return {found.name: found.state async for found in doctor.examine(chosen, os.environ)}\n"
        "print(asyncio.run(states())['read back'])\n"
        "from opentelemetry import trace\n"
        "print(type(trace.get_tracer_provider()).__name__, type(trace.get_tracer_provider()).__module__)\n"
    )
    env = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "OTEL_VOICE_PORT": str(free_port()), **langfuse_server.env}
    command = [sys.executable, "-c", script, str(data_dir)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["ok", "ProxyTracerProvider opentelemetry.trace"], done.stderr
    assert len(langfuse_server.requests) == 1


# Read back


async def test_the_probe_is_asked_for_until_Langfuse_has_it(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    langfuse_server.shown_after = 2
    found = await looked(data_dir, langfuse_server.env)
    assert found["read back"].state == "ok"
    assert langfuse_server.spans[0].trace_id.hex() in found["read back"].text


async def test_a_probe_that_does_not_come_through_is_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    langfuse_server.shown_after = 1_000
    found = await looked(data_dir, langfuse_server.env, limits=Limits(answer_s=2, read_back_s=0.6))
    assert found["read back"].state == "mend"
    assert re.search(r"was not found in Langfuse within \S+ s \(it is not there\)", found["read back"].text)


async def test_a_Jaeger_that_is_down_or_none_is_found(data_dir: Path, langfuse_server: LangfuseServer) -> None:
    for url, said in ((f"http://127.0.0.1:{free_port()}", "ConnectError"), (langfuse_server.base_url, "401")):
        env = endpoint(f"{langfuse_server.base_url}/api/public/otel") | {"OTEL_VOICE_JAEGER_URL": url}
        env["OTEL_EXPORTER_OTLP_HEADERS"] = header(langfuse_server)
        found = await looked(data_dir, env, limits=Limits(answer_s=2, read_back_s=0.3))
        assert found["next hop"].state == "ok"
        assert found["read back"].state == "mend"
        assert said in found["read back"].text


def header(server: LangfuseServer) -> str:
    export = read(server.env).export
    assert export is not None
    return ",".join(f"{name}={value.replace(' ', '%20').replace('=', '%3D')}" for name, value in export.headers.items())


async def test_where_nothing_can_be_read_back_it_says_what_to_set(
    data_dir: Path, langfuse_server: LangfuseServer
) -> None:
    env = endpoint(f"{langfuse_server.base_url}/api/public/otel")
    found = await looked(data_dir, env | {"OTEL_EXPORTER_OTLP_HEADERS": header(langfuse_server)})
    assert found["next hop"].state == "ok"
    assert found["read back"].state == "look"
    assert "OTEL_VOICE_JAEGER_URL" in found["read back"].text
    assert "langfuse" not in found


# The clock


@pytest.mark.parametrize(
    "ours, state, said",
    [
        ([DATE_S - 90, DATE_S - 90], "look", "90 s behind that of"),
        ([DATE_S + 91, DATE_S + 91], "look", "90 s ahead of that of"),
        ([DATE_S + 2, DATE_S + 2], "ok", "agrees with that of"),
        ([DATE_S - 10, DATE_S], "ok", "agrees with that of"),
        ([DATE_S, DATE_S + 10], "ok", "agrees with that of"),
    ],
    ids=["behind", "ahead", "within what a date says", "dated at the end of a slow answer", "dated at its start"],
)
async def test_a_clock_that_is_wrong_is_worth_a_look(
    data_dir: Path, langfuse_server: LangfuseServer, ours: list[float], state: str, said: str
) -> None:
    langfuse_server.answer_next(Reply(200, headers={"Date": formatdate(DATE_S, usegmt=True)}))
    times = iter([ours[0], *ours])
    found = await looked(data_dir, endpoint(langfuse_server.base_url), clock=lambda: next(times))
    assert found["clock"].state == state
    assert said in found["clock"].text


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_an_answer_without_a_date_says_nothing_of_the_clock(
    data_dir: Path, langfuse_server: LangfuseServer, date: str
) -> None:
    langfuse_server.answer_next(Reply(200, headers={"Date": date}))
    found = await looked(data_dir, endpoint(langfuse_server.base_url))
    assert found["next hop"].state == "ok"
    assert found["clock"] == Finding("clock", "look", "not asked: no answer had a date")


# How it is shown


def test_findings_are_lines_that_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with display.findings() as (show, waiting):
        waiting("reading the store")
        show(Finding("next hop", "mend", "it said \x1b[31m[red]no[/red]\n" + "and more " * 40))
        show(Finding("clock", "ok", "agrees"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mend  next hop   it said  [31m[red]no[/red] and more")
    assert second == "ok    clock      agrees"


def test_on_a_terminal_marks_have_colours_and_what_is_waited_for_is_seen() -> None:
    script = (
        "from otel_voice import display\n"
        "from otel_voice.findings import Finding\n"
        "with display.findings() as (show, waiting):\n"
        "    waiting('reading the store')\n"
        "    show(Finding('clock', 'look', 'word ' * 30))\n"
    )
    ours, theirs = pty.openpty()
    env = {"PYTHONPATH": str(COLLECTOR_CONFIG.parent), "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=theirs) as shown:
        os.close(theirs)
        text = b"".join(iter(lambda: read_terminal(ours), b"")).decode()
    os.close(ours)
    assert shown.returncode == 0
    assert "reading the store" in text
    assert "\x1b[33mlook" in text
    assert "\n                 word" in text


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # nobody holds the other end any more
        return b""
