"""docs/production.md, tried: the unit, both proxies, a backup taken under load, what a turn takes on the disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from otel_voice import settings
from otel_voice.recording import Recording
from otel_voice.replay import replay
from otel_voice.store import Reader
from tests.browsing import final_spans
from tests.components.programs import CADDY, NGINX
from tests.conftest import binary_of
from tests.documents import ROOT, snippet
from tests.real import LangfuseServer, Program, Receiver, Reply, free_port, wait_for
from tests.shell import ADDRESS, Shell

Keep = Callable[[Program], Program]

PAGE = "docs/production.md"
UNIT = snippet(PAGE, "[Unit]")
ENV = snippet(PAGE, "# What your backend sends")
NGINX_CONF = snippet(PAGE, "upstream otel_voice")
CADDYFILE = snippet(PAGE, "voice.example.com {")
CURL = snippet(PAGE, "curl -s https://voice.example.com")
DOCTOR = snippet(PAGE, "set -a")
BACKUP = snippet(PAGE, "otel-voice backup")
RESTORE = snippet(PAGE, "cp -R voice-backup")

NAME = "voice.example.com"
API_KEY = "a-key-of-the-apps-backend"
VIEWER_TOKEN = "a-token-for-who-looks-at-calls"
ORIGIN = "https://app.example.com"
SECRETS = {"OTEL_VOICE_API_KEY": API_KEY, "OTEL_VOICE_VIEWER_TOKEN": VIEWER_TOKEN, "OTEL_VOICE_ALLOWED_ORIGINS": ORIGIN}


# The service


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not (verify := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze here: it comes with systemd")
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o755)
    unit = tmp_path / "otel-voice.service"
    command = "/opt/otel-voice/.venv/bin/otel-voice serve"
    assert f"ExecStart={command}\n" in UNIT
    unit.write_text(UNIT.replace(command, str(tmp_path / "run")))
    done = subprocess.run([verify, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_services_variables_are_settings_and_doctor_reads_them(tmp_path: Path) -> None:
    file, store, secret = tmp_path / "env", tmp_path / "store", "a-secret-of-sixteen-characters"
    file.write_text(ENV.replace("…", secret))
    lines = [line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#")]
    chosen = settings.read({name: value for name, _, value in lines})
    assert chosen.api_key == chosen.viewer_token == secret
    assert chosen.export and chosen.allowed_origins
    puts = {"/etc/otel-voice.env": str(file), "/var/lib/otel-voice": str(store), "/opt/otel-voice/.venv/bin/": ""}
    out = Shell(tmp_path, tmp_path / "other").run(DOCTOR, puts, code=1)
    assert f"the store is in {store}, the receiver on {ADDRESS}" in out
    assert "http://127.0.0.1:4318/v1/traces did not take a probe span" in out


# The proxy


class Proxy:
    """With the page's configuration, on a port of its own, with a certificate of its own, before a receiver."""

    def __init__(self, folder: Path, upstream: Receiver) -> None:
        self.port, self.upstream, self.folder = free_port(), upstream, folder
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        make = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}"
        files = ["-keyout", str(self.key), "-out", str(self.cert)]
        subprocess.run(["openssl", *make.split(), *files], capture_output=True, check=True)
        trust = ssl.create_default_context(cafile=str(self.cert))
        # By its name, at its address; each from an address of this machine's.
        self.client = partial(httpx.Client, base_url=f"https://127.0.0.1:{self.port}", headers={"host": self.host})
        self.transport = partial(httpx.HTTPTransport, verify=trust)

    @property
    def host(self) -> str:
        return f"{NAME}:{self.port}"

    def request(self, method: str, path: str, source: str = "127.0.0.1", **options: Any) -> httpx.Response:
        with self.client(transport=self.transport(local_address=source)) as client:
            return client.request(method, path, extensions={"sni_hostname": NAME}, **options)


def nginx(proxy: Proxy, conf: str = NGINX_CONF) -> Program:
    certificates = f"/etc/letsencrypt/live/{NAME}"
    text = conf.replace("listen 443 ", f"listen 127.0.0.1:{proxy.port} ")
    text = text.replace(f"{certificates}/fullchain.pem", str(proxy.cert))
    text = text.replace(f"{certificates}/privkey.pem", str(proxy.key))
    text = text.replace(ADDRESS.removeprefix("http://"), f"127.0.0.1:{proxy.upstream.port}")
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = [f"{name}_temp_path {proxy.folder}/{name};" for name in names]
    file = proxy.folder / "nginx.conf"
    # Its workers write bodies into the test's folder, which is nobody else's.
    user = "" if os.geteuid() else "user root;\n"
    head = f"{user}daemon off;\npid {proxy.folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n"
    file.write_text("\n".join([head, *own, text, "}"]))
    command = [str(binary_of(NGINX)), "-e", "stderr", "-c", str(file)]
    assert subprocess.run([*command, "-t"], capture_output=True).returncode == 0
    return Program("nginx", command, proxy.folder, {})


def caddy(proxy: Proxy, conf: str = CADDYFILE) -> Program:
    own = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    at = f"https://{proxy.host} {{\n\tbind 127.0.0.1\n\ttls {proxy.cert} {proxy.key}"
    text = own + conf.replace(f"{NAME} {{", at)
    text = text.replace(ADDRESS.removeprefix("http://"), f"127.0.0.1:{proxy.upstream.port}")
    file = proxy.folder / "Caddyfile"
    file.write_text(text)
    command = [str(binary_of(CADDY)), "run", "--adapter", "caddyfile", "--config", str(file)]
    return Program("caddy", command, proxy.folder, {"HOME": str(proxy.folder)})


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, receiver: Callable[..., Receiver], keep: Keep) -> Proxy:
    proxy = Proxy(tmp_path, receiver(**SECRETS))
    wait_until_ready(proxy, keep(request.param(proxy)))
    return proxy


def wait_until_ready(proxy: Proxy, program: Program, path: str = "") -> None:
    def answers() -> bool:
        try:
            return proxy.request("GET", f"{path}/readyz").text == "ok\n"
        except httpx.TransportError:
            return False

    wait_for(answers, 20, "the proxy", program.log)


def made_by(proxy: Proxy) -> dict[str, Any]:
    answer = proxy.request("POST", "/v1/sessions", headers={"authorization": f"Bearer {API_KEY}"}, json={})
    return dict(answer.raise_for_status().json())


def post(proxy: Proxy, made: dict[str, Any], event: dict[str, Any]) -> httpx.Response:
    """As a page does."""
    body = json.dumps({"token": made["token"], "events": [event]})
    path = made["events_url"].partition(proxy.host)[2]
    return proxy.request("POST", path, headers={"origin": ORIGIN, "content-type": "text/plain"}, content=body)


def test_a_page_posts_through_the_proxy_to_the_address_that_the_backend_got(proxy: Proxy) -> None:
    made = made_by(proxy)
    assert made["events_url"].startswith(f"https://{proxy.host}/v1/sessions/")
    answer = post(proxy, made, {"type": "turn_complete", "turn_id": "t1"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, ORIGIN)


# As the page says below them: the proxy takes its own path off.
LOCATION, HANDLE = "location /otel/ { proxy_pass http://otel_voice/; … }", "handle_path /otel/*"
NGINX_UNDER = NGINX_CONF.replace("location / {", "location /otel/ {").replace("//otel_voice;", "//otel_voice/;")
CADDY_UNDER = re.sub(r"(reverse_proxy .*)", rf"{HANDLE} {{\n\t\t\1\n\t}}", CADDYFILE)


@pytest.mark.parametrize(
    "run", [partial(nginx, conf=NGINX_UNDER), partial(caddy, conf=CADDY_UNDER)], ids=["nginx", "caddy"]
)
def test_a_page_posts_through_a_proxy_that_takes_its_own_path_off(
    receiver: Callable[..., Receiver], tmp_path: Path, keep: Keep, run: Callable[[Proxy], Program]
) -> None:
    assert f"`{LOCATION}` or Caddy's `{HANDLE}`" in (ROOT / PAGE).read_text()
    proxy = Proxy(tmp_path, receiver(**SECRETS, OTEL_VOICE_PUBLIC_URL=f"https://{NAME}/otel"))
    wait_until_ready(proxy, keep(run(proxy)), "/otel")
    headers = {"authorization": f"Bearer {API_KEY}"}
    # By an inner address.
    made = httpx.post(f"{proxy.upstream.url}/v1/sessions", headers=headers, json={}).json()
    assert made["events_url"].startswith(f"https://{NAME}/otel/v1/sessions/")
    public = {**made, "events_url": made["events_url"].replace(NAME, proxy.host)}
    assert post(proxy, public, {"type": "turn_complete", "turn_id": "t1"}).status_code == 204


def test_the_pages_command_shows_the_public_address(proxy: Proxy, tmp_path: Path) -> None:
    shell = Shell(tmp_path, tmp_path)
    shell.env |= {"OTEL_VOICE_API_KEY": API_KEY, "CURL_HOME": str(tmp_path)}
    (tmp_path / ".curlrc").write_text(f'cacert = "{proxy.cert}"\nresolve = "{proxy.host}:127.0.0.1"\n')
    made = json.loads(shell.run(CURL, {f"https://{NAME}": f"https://{proxy.host}"}))
    assert made["events_url"].startswith(f"https://{proxy.host}/")


def test_a_stream_comes_through_the_proxy_as_it_is_written(proxy: Proxy) -> None:
    made = made_by(proxy)
    path, key = f"/v1/sessions/{made['session_id']}/stream", {"authorization": f"Bearer {API_KEY}"}
    with (
        proxy.client(transport=proxy.transport(), timeout=10) as client,
        client.stream("GET", path, headers=key, extensions={"sni_hostname": NAME}) as stream,
    ):
        lines = stream.iter_lines()
        next(line for line in lines if "event: session" in line)
        post(proxy, made, {"type": "turn_complete", "turn_id": "t1", "user_text": "How is Rome?"})
        # The connection stays open: what is held back would never come.
        assert next(line for line in lines if "How is Rome?" in line)


def log_in(proxy: Proxy, forwarded_for: str, source: str) -> int:
    said = {"headers": {"x-forwarded-for": forwarded_for}, "json": {"token": "not-the-token-of-a-viewer"}}
    return proxy.request("POST", "/v1/viewer/login", source, **said).status_code


def test_an_address_that_a_client_makes_up_gets_it_no_further(proxy: Proxy) -> None:
    statuses = [log_in(proxy, f"203.0.113.{n}", "127.0.0.2") for n in range(22)]
    assert (statuses[0], statuses[-1]) == (401, 429)


def test_two_clients_of_one_proxy_have_a_limit_each(receiver: Callable[..., Receiver]) -> None:
    """What a proxy on this machine says is believed."""
    url = f"{receiver(**SECRETS).url}/v1/viewer/login"
    said = {"token": "not-the-token-of-a-viewer"}
    for _ in range(22):
        last = httpx.post(url, json=said, headers={"x-forwarded-for": "203.0.113.7"})
    assert last.status_code == 429
    assert httpx.post(url, json=said, headers={"x-forwarded-for": "203.0.113.8"}).status_code == 401


def test_the_proxy_lets_through_what_the_receiver_takes_and_hides_the_metrics(proxy: Proxy) -> None:
    key = {"authorization": f"Bearer {API_KEY}"}
    assert proxy.request("GET", "/metrics").status_code == 404
    recording = (ROOT / "otel_voice" / "demo" / "gemini-live.jsonl").read_bytes() + b"\n" * (7 * 2**20)
    assert proxy.request("POST", "/v1/view", headers=key, content=recording).status_code == 200
    refused = post(proxy, made_by(proxy), {"type": "mark", "name": "x" * (2 * 2**20)})
    assert (refused.status_code, refused.json()) == (413, {"error": "body: at most 1048576 bytes"})


def test_only_the_proxies_that_are_named_are_believed(receiver: Callable[..., Receiver]) -> None:
    running = receiver(**SECRETS, FORWARDED_ALLOW_IPS="10.0.0.5,10.0.1.0/24")
    headers = {"authorization": f"Bearer {API_KEY}", "x-forwarded-proto": "https"}
    made = httpx.post(f"{running.url}/v1/sessions", headers=headers, json={}).json()
    assert made["events_url"].startswith("http://")


def test_a_backend_that_asks_by_an_inner_address_says_the_public_one(receiver: Callable[..., Receiver]) -> None:
    headers = {"authorization": f"Bearer {API_KEY}", "host": NAME, "x-forwarded-proto": "https"}
    made = httpx.post(f"{receiver(**SECRETS).url}/v1/sessions", headers=headers, json={}).json()
    assert made["events_url"].startswith(f"https://{NAME}/v1/sessions/")


def test_without_a_key_a_receiver_behind_a_proxy_answers_nobody(receiver: Callable[..., Receiver]) -> None:
    answer = httpx.get(f"{receiver().url}/v1/sessions", headers={"host": NAME})
    assert (answer.status_code, "loopback names only" in answer.text) == (403, True)


# Backups


class Load(threading.Thread):
    """Calls that go on and on: batches of numbered events, as pages post them, and which were taken."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.over = url, threading.Event()
        self.made = [httpx.post(f"{url}/v1/sessions", json={"user_id": "u-17"}).json() for _ in range(4)]
        self.taken: list[tuple[int, dict[str, Any]]] = []

    def run(self) -> None:
        seq = 0
        with httpx.Client() as http:
            while not self.over.is_set():
                turn = {"type": "turn_complete", "turn_id": f"t{seq}", "user_text": "How is Rome? " * 20}
                self.post_to_all(http, turn, seq)
                seq += 1
            self.post_to_all(http, {"type": "session_end", "reason": "user_hangup", "last_seq": seq}, seq)

    def post_to_all(self, http: httpx.Client, event: dict[str, Any], seq: int) -> None:
        numbered = {**event, "seq": seq, "ts": 1_790_000_000_000 + seq * 100}
        for number in range(len(self.made)):
            self.post(http, self.url, number, numbered)
            self.taken.append((number, numbered))

    def post(self, http: httpx.Client, url: str, number: int, event: dict[str, Any]) -> None:
        made = self.made[number]
        body = {"token": made["token"], "source": "page", "events": [event]}
        http.post(f"{url}/v1/sessions/{made['session_id']}/events", json=body).raise_for_status()

    def again(self, url: str) -> None:
        """As pages would whose answers had got lost."""
        with httpx.Client() as http:
            for number, event in self.taken:
                self.post(http, url, number, event)

    def spans(self, url: str) -> list[dict[str, Any]]:
        """Of all calls, once they are final."""
        return [span for made in self.made for span in final_spans(url, made["session_id"])]


def seqs(url: str, session_id: str) -> set[int]:
    lines = httpx.get(f"{url}/v1/sessions/{session_id}/events").text.splitlines()
    return {event["seq"] for event in map(json.loads, lines) if "seq" in event}


def test_a_backup_that_is_taken_under_load_is_a_receiver_that_goes_on_without_loss_or_doubles(
    receiver: Callable[..., Receiver], tmp_path: Path, keep: Keep, langfuse_server: LangfuseServer
) -> None:
    langfuse_server.standing = Reply(200)
    first = receiver(**langfuse_server.env)
    load = Load(first.url)
    load.start()
    wait_for(lambda: len(load.taken) > 200, 30, "some load")
    before = len(load.taken)
    shell = Shell(tmp_path, first.data_dir)
    said = shell.run(BACKUP, cwd=tmp_path)
    wait_for(lambda: len(load.taken) > before + 100, 30, "more of it")
    load.over.set()
    load.join()
    truth = load.spans(first.url)
    first.stop()

    with closing(Reader(tmp_path / "voice-backup")) as reader:
        assert reader.ledger() == reader.counted_ledger()
        assert said.endswith(f"; {reader.ledger()}\n")
        held = reader.ledger().accepted
    shell.env |= langfuse_server.env
    restored = keep(shell.serve(RESTORE, cwd=tmp_path))
    for number, made in enumerate(load.made):
        acknowledged = {event["seq"] for n, event in load.taken[:before] if n == number}
        there = seqs(shell.url, made["session_id"])
        assert acknowledged <= there == set(range(len(there)))
        held -= len(there)
    assert held == 0
    load.again(shell.url)
    assert load.spans(shell.url) == truth
    sent = {(span.trace_id, span.span_id): span.SerializeToString() for span in langfuse_server.spans}
    assert len(sent) == len(truth)
    assert all(sent[span.trace_id, span.span_id] == span.SerializeToString() for span in langfuse_server.spans)
    restored.stop()
    with closing(Reader(tmp_path / "restored")) as reader:
        assert reader.ledger() == reader.counted_ledger()


def test_after_a_clean_stop_the_one_file_is_the_whole_store(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    made = httpx.post(f"{running.url}/v1/sessions", json={}).json()
    body = {"token": made["token"], "events": [{"type": "turn_complete", "turn_id": "t1"}]}
    httpx.post(made["events_url"], json=body).raise_for_status()
    running.stop()
    assert {path.name for path in running.data_dir.iterdir()} == {"lock", "otel-voice.db", "token.key"}
    copied = tmp_path / "copied"
    copied.mkdir()
    shutil.copy(running.data_dir / "otel-voice.db", copied)
    with closing(Reader(copied)) as reader:
        assert (reader.check(), reader.ledger().accepted) == (None, 1)


def test_an_older_version_leaves_a_newer_store_alone(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    running = receiver()
    running.stop()
    file = running.data_dir / "otel-voice.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA user_version = 99")
    before = file.read_bytes()
    shell = Shell(tmp_path, running.data_dir)
    shell.env["OTEL_VOICE_PORT"] = str(free_port())
    said = shell.run("otel-voice serve 2>&1", code=1)
    assert "version of otel-voice (schema 99, this one " in said
    assert file.read_bytes() == before


# Sizes


def test_a_delivered_turn_takes_as_much_as_the_page_says(
    receiver: Callable[..., Receiver], langfuse_server: LangfuseServer
) -> None:
    (said,) = re.findall(r"^\| store, a delivered turn \| (\d+) kB \|", (ROOT / PAGE).read_text(), re.M)
    langfuse_server.standing = Reply(200)
    running = receiver(**langfuse_server.env)

    def metric(name: str) -> float:
        (value,) = re.findall(rf"^otel_voice_{name} (\S+)$", httpx.get(f"{running.url}/metrics").text, re.M)
        return float(value)

    empty, turns = metric("store_used_bytes"), 0
    for name in ["gemini-live.jsonl", "openai-realtime.jsonl"] * 10:
        recording = Recording(ROOT / "otel_voice" / "demo" / name)
        turns += replay(recording, running.url, None, None, on_progress=lambda _: None).turn_count
    wait_for(lambda: metric("events_open") == metric("spans_pending") == 0, 30, "all to be delivered")
    assert (metric("store_used_bytes") - empty) / turns / 1000 == pytest.approx(int(said), rel=0.25)
