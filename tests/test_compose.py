"""docker-compose.yml and Dockerfile, as far as they go without an engine: the real Compose reads the one, and what the
containers would run is run here, by its command and its environment, with paths, ports and names put in their place."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.components.build import COLLECTOR, COMPOSE_BINARY, JAEGER_RELEASE, MANIFEST
from tests.conftest import binary_of
from tests.real import Jaeger, LangfuseServer, Program, Reply, free_port, wait_for
from tests.test_collector_config import spans_of

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"
SEND_TO = ROOT / "docker" / "send-to"
DEFAULT = {"receiver", "collector", "jaeger"}
LANGFUSE = {
    "langfuse-route",
    "langfuse-web",
    "langfuse-worker",
    "postgres",
    "clickhouse",
    "redis",
    "minio",
    "minio-bucket",
}
SPANS = 5
ONCE = {"langfuse-route", "minio-bucket"}
# Which Langfuse asks for at both of its containers.
S3 = ("BUCKET", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT", "FORCE_PATH_STYLE")
REQUIRED = [
    *("DATABASE_URL", "SALT", "ENCRYPTION_KEY", "NEXTAUTH_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_AUTH"),
    *("CLICKHOUSE_URL", "CLICKHOUSE_MIGRATION_URL", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"),
    "CLICKHOUSE_CLUSTER_ENABLED",
    *(f"LANGFUSE_S3_{what}_UPLOAD_{name}" for what in ("EVENT", "MEDIA") for name in S3),
]
INIT = ("ORG_ID", "PROJECT_ID", "PROJECT_PUBLIC_KEY", "PROJECT_SECRET_KEY", "USER_EMAIL", "USER_NAME", "USER_PASSWORD")

Services = dict[str, dict[str, Any]]


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=base | env, capture_output=True, text=True, timeout=60)


def need(program: str, sentence: str) -> None:
    if shutil.which(program) is None:
        pytest.fail(sentence, pytrace=False) if os.environ.get("CI") == "true" else pytest.skip(sentence)


def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
    """`make env`, in a checkout that has nothing else."""
    need("make", "no make here, by which .env is written")
    (folder / "docker").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "docker" / "env.py", folder / "docker")
    return run(["make", "env", f"PYTHON={sys.executable}"], folder)


def values_in(env: Path) -> dict[str, str]:
    pairs = [line.partition("=") for line in env.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


@pytest.fixture(scope="session")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("env")
    done = make_env(folder)
    assert done.returncode == 0, done.stderr
    return folder / ".env"


@pytest.fixture(scope="session")
def config(env_file: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`config(*profiles)`: what the real Compose makes of the file, held against the specification's schema."""
    binary = str(binary_of(COMPOSE_BINARY))

    def config(*profiles: str, env: Path = env_file) -> subprocess.CompletedProcess[str]:
        chosen = [option for profile in profiles for option in ("--profile", profile)]
        read = [binary, "-f", str(FILE), "--env-file", str(env), *chosen, "config", "--format", "json"]
        return run(read, env_file.parent)

    return config


@pytest.fixture(scope="session")
def services(config: Callable[..., subprocess.CompletedProcess[str]]) -> Services:
    """All services, with Langfuse's."""
    done = config("langfuse")
    assert done.returncode == 0, done.stderr
    # Compose writes a dollar as two, so that what it says can be read again.
    found: Services = json.loads(done.stdout.replace("$$", "$"))["services"]
    return found


def put(text: str, places: dict[str, str]) -> str:
    for what, where in places.items():
        text = text.replace(what, where)
    return text


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name, the last one's is "": their instructions and what these say."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, re.sub(r"\s*\\\n\s*", " ", text).splitlines()):
        instruction, _, said = line.partition(" ")
        if instruction == "FROM":
            name = said.partition(" AS ")[2]
            found[name] = []
        found[name].append((instruction, said))
    return found


def said(stage: str, instruction: str) -> str:
    (found,) = [text for name, text in stages()[stage] if name == instruction]
    return found


def image_command(stage: str) -> list[str]:
    return [*json.loads(said(stage, "ENTRYPOINT")), *json.loads(said(stage, "CMD"))]


def image_health(stage: str) -> list[str]:
    command: list[str] = json.loads(said(stage, "HEALTHCHECK").partition("CMD ")[2])
    return command


def image_env(stage: str) -> dict[str, str]:
    lines = [text for name, text in stages()[stage] if name == "ENV"]
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


# .env


def test_make_env_writes_fresh_secrets_for_its_owner_only(tmp_path: Path, env_file: Path) -> None:
    done = make_env(tmp_path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    one, other = values_in(env_file), values_in(tmp_path / ".env")
    assert one.keys() == other.keys()
    same = {name for name in one if one[name] == other[name]}
    assert same == {
        "OTEL_VOICE_PUBLIC_URL",
        "OTEL_VOICE_ALLOWED_ORIGINS",
        "OTEL_VOICE_LANGFUSE_URL",
        "LANGFUSE_USER_EMAIL",
    }
    fresh = [value for name, value in other.items() if name not in same]
    assert len(set(fresh)) == len(fresh)
    assert min(map(len, fresh)) >= 24
    assert not [value for value in fresh if value in done.stdout], "a secret is on the screen"


def test_make_env_lets_an_env_that_is_there_be(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINE=1\n")
    done = make_env(tmp_path)
    assert done.returncode != 0
    assert ".env is there already and stays as it is" in done.stderr
    assert (tmp_path / ".env").read_text() == "MINE=1\n"


def test_langfuse_can_use_what_make_env_wrote(env_file: Path) -> None:
    values = values_in(env_file)
    assert re.fullmatch("[0-9a-f]{64}", values["LANGFUSE_ENCRYPTION_KEY"])
    assert re.fullmatch("pk-lf-[0-9a-f-]{36}", values["LANGFUSE_PUBLIC_KEY"])
    assert re.fullmatch("sk-lf-[0-9a-f-]{36}", values["LANGFUSE_SECRET_KEY"])
    for kind in ("[A-Za-z]", "[0-9]", "[^A-Za-z0-9]"):
        assert re.search(kind, values["LANGFUSE_USER_PASSWORD"])


def test_the_secrets_stay_out_of_git_and_out_of_the_images() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert "!.env" not in ignored


# docker-compose.yml


def test_the_file_is_valid_and_langfuse_is_only_in_its_profile(
    config: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for profiles, expected in (((), DEFAULT), (("langfuse",), DEFAULT | LANGFUSE)):
        done = config(*profiles)
        # A warning, as of a variable that is not set, goes to stderr.
        assert (done.returncode, done.stderr) == (0, "")
        assert set(json.loads(done.stdout)["services"]) == expected


def test_every_variable_is_in_env_or_has_a_default(env_file: Path) -> None:
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("$$", "")
    used = re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}|\$(\w+)", text)
    assert used
    known = values_in(env_file)
    for name, otherwise, bare in used:
        assert not bare, f"${bare} should be in braces"
        assert name in known or "-" in otherwise[:2], name
    assert known.keys() <= {name for name, _, _ in used}, "a line of .env that nothing reads"


def test_without_an_env_it_says_what_to_do(
    config: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    done = config(env=tmp_path / "empty")
    assert done.returncode != 0
    assert "OTEL_VOICE_API_KEY is missing a value: run make env" in done.stderr


def test_only_the_three_pages_are_published_and_on_loopback(services: Services) -> None:
    published = {
        (name, port["host_ip"], port["published"], port["target"])
        for name, service in services.items()
        for port in service.get("ports", [])
    }
    assert published == {
        ("receiver", "127.0.0.1", "8770", 8770),
        ("jaeger", "127.0.0.1", "16686", 16686),
        ("langfuse-web", "127.0.0.1", "3000", 3000),
    }
    assert not [name for name, service in services.items() if "network_mode" in service]


def test_every_image_has_its_version(services: Services) -> None:
    ours = {"receiver": "", "collector": "collector", "langfuse-route": "collector"}
    bases = [words.split()[0] for stage in stages().values() for name, words in stage if name == "FROM"]
    for image in bases + [service["image"] for name, service in services.items() if name not in ours]:
        # The patch release, or the day: a tag like 17 is another image every month.
        assert re.search(r":[^:/]*\d+[.-]\d+[.-]\d+|:17\.\d+", image), image
    for name, stage in ours.items():
        assert services[name]["build"].get("target", "") == stage
        assert stage in stages()


def test_the_versions_are_those_of_the_tests(services: Services) -> None:
    collector = re.search(r"^  version: (\S+)$", MANIFEST.read_text(), re.MULTILINE)
    assert collector
    assert said("otelcol", "FROM") == f"otel/opentelemetry-collector-contrib:{collector[1]} AS otelcol"
    assert services["jaeger"]["image"] == f"jaegertracing/jaeger:{JAEGER_RELEASE}"
    assert (
        services["langfuse-web"]["image"].replace("langfuse:", "langfuse-worker:")
        == (services["langfuse-worker"]["image"])
    )


def test_whatever_runs_is_asked_how_it_is_and_everything_starts_in_its_turn(services: Services) -> None:
    for name, service in services.items():
        if name not in ONCE:
            assert service["restart"] == "unless-stopped", name
            ours = service.get("build")
            assert image_health(ours.get("target", "")) if ours else service["healthcheck"]["test"], name
        for wanted, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if wanted in ONCE else "service_healthy"
            assert how["condition"] == expected, f"{name} on {wanted}"
    asked = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert asked["receiver"] == {"collector", "langfuse-route"}
    assert asked["collector"] == {"jaeger"}
    assert asked["langfuse-route"] == {"collector"}
    assert asked["langfuse-web"] == {"postgres", "clickhouse", "redis", "minio-bucket"}
    assert asked["langfuse-worker"] == asked["langfuse-web"] | {"langfuse-web"}
    assert asked["minio-bucket"] == {"minio"}
    assert services["receiver"]["depends_on"]["langfuse-route"]["required"] is False


def test_langfuse_gets_every_variable_it_needs_in_both_containers(services: Services) -> None:
    for name in ("langfuse-web", "langfuse-worker"):
        missing = [variable for variable in REQUIRED if not services[name]["environment"].get(variable)]
        assert not missing, f"{name}: {missing}"
    web = services["langfuse-web"]["environment"]
    assert web["NEXTAUTH_SECRET"]
    assert not [variable for variable in INIT if not web.get(f"LANGFUSE_INIT_{variable}")]


@pytest.mark.parametrize(("name", "port"), [("langfuse-web", "3000"), ("langfuse-worker", "3030")])
def test_langfuses_health_checks_hear_what_is_answered(
    services: Services, langfuse_server: LangfuseServer, tmp_path: Path, name: str, port: str
) -> None:
    need("node", "no node here, by which Langfuse's containers are asked how they are")
    asked = [
        put(word, {f"http://127.0.0.1:{port}": langfuse_server.base_url})
        for word in services[name]["healthcheck"]["test"]
    ]
    codes = []
    for status in (200, 503):
        langfuse_server.standing = Reply(status)
        codes.append(run(asked[1:], tmp_path).returncode)
    langfuse_server.down()
    assert [*codes, run(asked[1:], tmp_path).returncode] == [0, 1, 1]


def test_langfuse_and_its_stores_agree(services: Services) -> None:
    env = {name: service.get("environment", {}) for name, service in services.items()}
    web = env["langfuse-web"]
    assert web["DATABASE_URL"] == f"postgresql://postgres:{env['postgres']['POSTGRES_PASSWORD']}@postgres:5432/postgres"
    for variable in ("CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"):
        assert web[variable] == env["clickhouse"][variable]
    assert web["REDIS_AUTH"] == env["redis"]["REDISCLI_AUTH"]
    redis = services["redis"]["command"]
    options = dict(zip(redis[1::2], redis[2::2], strict=True))
    assert options == {"--requirepass": web["REDIS_AUTH"], "--maxmemory-policy": "noeviction", "--appendonly": "yes"}
    for what in ("EVENT", "MEDIA"):
        assert web[f"LANGFUSE_S3_{what}_UPLOAD_ACCESS_KEY_ID"] == env["minio"]["MINIO_ROOT_USER"]
        assert web[f"LANGFUSE_S3_{what}_UPLOAD_SECRET_ACCESS_KEY"] == env["minio"]["MINIO_ROOT_PASSWORD"]
        assert services["minio-bucket"]["command"][-1] == f"store/{web[f'LANGFUSE_S3_{what}_UPLOAD_BUCKET']}"
    minio = f"{env['minio']['MINIO_ROOT_USER']}:{env['minio']['MINIO_ROOT_PASSWORD']}"
    assert env["minio-bucket"]["MC_HOST_store"] == f"http://{minio}@minio:9000"
    assert web["HOSTNAME"] == env["langfuse-worker"]["HOSTNAME"] == "0.0.0.0"
    link = env["receiver"]["OTEL_VOICE_LANGFUSE_URL"]
    assert link == f"{web['NEXTAUTH_URL']}/project/{web['LANGFUSE_INIT_PROJECT_ID']}"


def test_the_collector_has_the_keys_of_langfuses_project(services: Services) -> None:
    web, collector = services["langfuse-web"]["environment"], services["collector"]["environment"]
    assert collector["LANGFUSE_PUBLIC_KEY"] == web["LANGFUSE_INIT_PROJECT_PUBLIC_KEY"]
    assert collector["LANGFUSE_SECRET_KEY"] == web["LANGFUSE_INIT_PROJECT_SECRET_KEY"]
    assert collector["LANGFUSE_BASE_URL"] == "http://langfuse-web:3000"


def test_what_has_been_accepted_is_in_volumes(services: Services) -> None:
    mounted = {
        name: {volume["source"]: volume["target"] for volume in service.get("volumes", [])}
        for name, service in services.items()
    }
    assert mounted["receiver"] == {"store": image_env("")["OTEL_VOICE_DATA_DIR"]}
    assert mounted["collector"] == mounted["langfuse-route"] == {"collector": "/var/lib/otelcol"}
    storage = services["collector"]["environment"]["OTEL_VOICE_COLLECTOR_STORAGE"]
    assert storage.startswith("/var/lib/otelcol/")
    for name in ("postgres", "clickhouse", "redis", "minio"):
        assert mounted[name].keys() == {f"langfuse-{name}"}
    kinds = {volume["type"] for service in services.values() for volume in service.get("volumes", [])}
    assert kinds == {"volume"}, "a folder of the machine is mounted"


def test_our_containers_can_write_nothing_but_their_volumes_and_are_nobody(services: Services) -> None:
    for name in ("receiver", "collector", "langfuse-route"):
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in services[name]
    for stage in ("", "collector"):
        assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", said(stage, "USER"))
    # A new volume takes the owner of the image's folder.
    user = said("", "USER")
    assert f"install -d -o {user.replace(':', ' -g ')} {image_env('')['OTEL_VOICE_DATA_DIR']}" in said("", "RUN")
    assert f"chown -R {said('collector', 'USER')} /var/lib/otelcol" in said("collector", "RUN")


def test_the_receiver_is_not_killed_within_the_ten_seconds_that_its_end_may_take(services: Services) -> None:
    assert grace_s(services) > 10


def grace_s(services: Services) -> float:
    return float(services["receiver"]["stop_grace_period"].removesuffix("s"))


# Dockerfile


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    lines = [text for stage in stages().values() for name, text in stage if name == "COPY"]
    words = [[word for word in line.split() if not word.startswith("--chmod")] for line in lines]
    return [source for line in words if not line[0].startswith("--from") for source in line[:-1]]


def test_what_the_images_are_made_of_is_in_git_and_reaches_the_build() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == let_in
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: whether the files are in git is not to be seen here")
    for source in copied():
        done = run(["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "--", source], Path("/"))
        assert done.stdout, f"{source} is not in git"


def test_nothing_is_installed_without_its_hash() -> None:
    installs = [line for name, line in stages()["build"] if name == "RUN"]
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "install --no-deps --no-index" in installs[1]
    assert image_env("build")["PIP_BUILD_CONSTRAINT"] == "/src/requirements-dev.lock"
    assert "\nhatchling==" in (ROOT / "requirements-dev.lock").read_text()


# The collector as its container runs it


class ComposeCollector(Program):
    """The collector's service with a volume that a second one can take over."""

    def __init__(
        self, services: Services, volume: Path, folder: Path, jaeger: Jaeger, langfuse: LangfuseServer
    ) -> None:
        self.volume = volume
        http, health = free_port(), free_port()
        self.url = f"http://127.0.0.1:{http}"
        places = {
            "/otelcol-contrib": str(binary_of(COLLECTOR)),
            "/etc/otelcol/config.yaml": str(ROOT / "collector-config.yaml"),
            "/var/lib/otelcol": str(volume),
            "0.0.0.0:4318": f"127.0.0.1:{http}",
            "jaeger:4317": jaeger.otlp_grpc_endpoint,
            "http://langfuse-web:3000": langfuse.base_url,
        }
        # A container has these ports to itself.
        own = {
            "OTEL_VOICE_COLLECTOR_GRPC": f"127.0.0.1:{free_port()}",
            "OTEL_VOICE_COLLECTOR_HEALTH": f"127.0.0.1:{health}",
            "OTEL_VOICE_COLLECTOR_METRICS_PORT": str(free_port()),
        }
        env = {name: put(value, places) for name, value in services["collector"]["environment"].items()}
        if not volume.exists():
            # A new volume is filled from the image's folder.
            volume.mkdir()
            (first,) = re.findall(r"echo '(.+)' > /var/lib/otelcol/exporters", said("collector", "RUN"))
            (volume / "exporters").write_text(first + "\n")
        command = [put(word, places) for word in image_command("collector")]
        super().__init__("collector", command, folder, env | own)
        (url,) = [word for word in image_health("collector") if word.startswith("http")]
        self.wait_until_answers(put(url, {"13133": str(health)}))

    def post(self, trace_id: bytes) -> None:
        headers = {"Content-Type": "application/x-protobuf"}
        body = spans_of(trace_id, SPANS).SerializeToString()
        httpx.post(f"{self.url}/v1/traces", content=body, headers=headers).raise_for_status()

    def send_to(self, *command: str) -> str:
        """The image's `send-to`, by a command of which it is the first word. Gives what it said once the collector has
        read its configuration anew."""
        places = {"/var/lib/otelcol": str(self.volume), "-HUP 1\n": f"-HUP {self.process.pid}\n"}
        before = self.times_ready()
        done = run(["sh", "-c", put(SEND_TO.read_text(), places), *command], self.volume)
        assert done.returncode == 0, done.stderr
        if "already" not in done.stdout:
            wait_for(lambda: self.times_ready() > before, what="the collector to be ready anew", note=self.log)
        return done.stdout

    def times_ready(self) -> int:
        return self.output.read_text().count("Everything is ready")


class Sending:
    """A client that sends trace after trace, each again until it is taken, as the receiver does."""

    def __init__(self, collector: ComposeCollector) -> None:
        self.taken: list[bytes] = []
        self._collector, self._ended = collector, threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        trace_id = os.urandom(16)
        while not self._ended.wait(0.005):
            try:
                self._collector.post(trace_id)
            except httpx.HTTPError:
                continue
            self.taken.append(trace_id)
            trace_id = os.urandom(16)

    def more(self) -> int:
        """How many have been taken, after some more."""
        before = len(self.taken)
        wait_for(lambda: len(self.taken) > before + 20, what="the collector to take more")
        return len(self.taken)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def collector(
    services: Services,
    tmp_path: Path,
    jaeger: Jaeger,
    langfuse_server: LangfuseServer,
    keep: Callable[[ComposeCollector], ComposeCollector],
) -> Callable[[], ComposeCollector]:
    """Starts it beside Jaeger and Langfuse; started again in the same test, it takes over the first one's volume."""
    web = services["langfuse-web"]["environment"]
    langfuse_server.public_key = web["LANGFUSE_INIT_PROJECT_PUBLIC_KEY"]
    langfuse_server.secret_key = web["LANGFUSE_INIT_PROJECT_SECRET_KEY"]
    return lambda: keep(ComposeCollector(services, tmp_path / "volume", tmp_path, jaeger, langfuse_server))


def are_in_jaeger(jaeger: Jaeger, traces: list[bytes]) -> bool:
    return all(len(jaeger.trace(each.hex()) or []) == SPANS for each in traces)


def are_at_langfuse(server: LangfuseServer, traces: list[bytes]) -> bool:
    arrived = {(span.trace_id, span.span_id) for span in server.spans}
    return all((each, (number + 1).to_bytes(8, "big")) in arrived for each in traces for number in range(SPANS))


@pytest.mark.components
def test_the_collector_sends_to_jaeger_alone_at_first(
    collector: Callable[[], ComposeCollector], jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    trace_id = os.urandom(16)
    collector().post(trace_id)
    wait_for(lambda: are_in_jaeger(jaeger, [trace_id]), what="the trace in Jaeger")
    assert not langfuse_server.requests


@pytest.mark.components
def test_langfuse_route_adds_langfuse_under_load_and_nothing_is_lost_though_langfuse_is_still_starting(
    collector: Callable[[], ComposeCollector], services: Services, jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    langfuse_server.down()
    program = collector()
    sending = Sending(program)
    try:
        sending.more()
        assert services["langfuse-route"]["pid"] == "service:collector"
        assert program.send_to(*services["langfuse-route"]["entrypoint"]) == "the collector sends to jaeger langfuse\n"
        since = len(sending.taken) + 1
        sending.more()
    finally:
        sending.end()
    langfuse_server.up()
    wait_for(lambda: are_in_jaeger(jaeger, sending.taken), 30, "every trace in Jaeger", program.log)
    wait_for(lambda: are_at_langfuse(langfuse_server, sending.taken[since:]), 30, "every later trace at Langfuse")


@pytest.mark.components
def test_a_collector_that_starts_again_goes_on_where_it_was_told_to(
    collector: Callable[[], ComposeCollector], services: Services, langfuse_server: LangfuseServer
) -> None:
    route = services["langfuse-route"]["entrypoint"]
    first = collector()
    first.send_to(*route)
    first.kill()
    second, trace_id = collector(), os.urandom(16)
    assert second.send_to(*route) == "the collector sends to jaeger langfuse already\n"
    second.post(trace_id)
    wait_for(lambda: are_at_langfuse(langfuse_server, [trace_id]), what="the trace at Langfuse")


@pytest.mark.components
def test_send_to_jaeger_ends_what_goes_to_langfuse(
    collector: Callable[[], ComposeCollector], services: Services, jaeger: Jaeger, langfuse_server: LangfuseServer
) -> None:
    program, before, after = collector(), os.urandom(16), os.urandom(16)
    program.send_to(*services["langfuse-route"]["entrypoint"])
    program.post(before)
    wait_for(lambda: are_at_langfuse(langfuse_server, [before]), what="the trace at Langfuse")
    (documented,) = re.findall(r"docker compose exec collector (send-to jaeger)\b", FILE.read_text())
    program.send_to(*documented.split())
    program.post(after)
    wait_for(lambda: are_in_jaeger(jaeger, [before, after]), what="both traces in Jaeger")
    assert {span.trace_id for span in langfuse_server.spans} == {before}


@pytest.mark.parametrize("words", [[], ["zipkin"], ["jaeger", "zipkin"]])
def test_send_to_does_nothing_that_it_does_not_understand(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "exporters").write_text("as it was")
    script = put(SEND_TO.read_text(), {"/var/lib/otelcol": str(tmp_path), "kill -HUP 1\n": "exit 77\n"})
    done = run(["sh", "-c", script, "send-to", *words], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: send-to ")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as it was"]


# The receiver as its container runs it


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's: the wheel as hatchling makes it, and of what the tests run with the dependencies alone."""
    folder = tmp_path_factory.mktemp("image")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    for command in ([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], pip):
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    (packages,) = (folder / "venv").glob("lib/python3.*/site-packages")
    # Not a folder of site's own: its .pth files, by which the checkout would come in, are not read.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    ours = run([str(python), "-c", "import otel_voice; print(otel_voice.__file__)"], folder).stdout
    assert ours.startswith(str(packages)), ours
    return folder / "venv"


class ComposeReceiver(Program):
    def __init__(self, services: Services, venv: Path, folder: Path, next_hop: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # The root of the container, which is read-only, and its volume.
        (root := folder / "root").mkdir()
        (data := folder / "data").mkdir()
        places = {
            "/venv": str(venv),
            "/data": str(data),
            "http://collector:4318": next_hop,
            "$PATH": os.environ["PATH"],
        }
        env = image_env("") | services["receiver"]["environment"]
        self.env = {name: put(value, places) for name, value in env.items()} | {"OTEL_VOICE_PORT": str(self.port)}
        super().__init__("receiver", self.found(image_command("")), root, self.env)
        self.wait_until_answers(f"{self.url}/readyz")

    def found(self, command: list[str]) -> list[str]:
        found = shutil.which(command[0], path=self.env["PATH"])
        assert found, command[0]
        return [found, *command[1:]]

    def health(self) -> int:
        command = [put(word, {":8770/": f":{self.port}/"}) for word in image_health("")]
        return run(self.found(command), self.output.parent).returncode


@pytest.fixture
def receiver(
    services: Services, venv: Path, tmp_path: Path, keep: Callable[[ComposeReceiver], ComposeReceiver]
) -> Callable[[str], ComposeReceiver]:
    """`receiver(next_hop)` starts it."""
    return lambda next_hop: keep(ComposeReceiver(services, venv, tmp_path, next_hop))


def test_the_receiver_runs_from_its_wheel_and_tells_its_health(
    receiver: Callable[[str], ComposeReceiver], services: Services
) -> None:
    program = receiver(f"http://127.0.0.1:{free_port()}")
    assert program.health() == 0
    assert httpx.get(f"{program.url}/v1/sessions").status_code == 401
    token = services["receiver"]["environment"]["OTEL_VOICE_VIEWER_TOKEN"]
    with httpx.Client(base_url=program.url, headers={"origin": program.url}) as browser:
        assert browser.post("/v1/viewer/login", json={"token": token}).is_success
        assert browser.get("/v1/sessions").is_success
        page = browser.get("/")
        assert page.is_success
        assert "<title>" in page.text
    program.stop(grace_s(services))
    assert program.health() != 0
    assert [file.name for file in program.output.parent.iterdir()] == ["receiver.log"], "it wrote outside its volume"


@pytest.mark.components
def test_a_first_call_is_in_jaeger_and_at_langfuse(
    receiver: Callable[[str], ComposeReceiver],
    collector: Callable[[], ComposeCollector],
    services: Services,
    jaeger: Jaeger,
    langfuse_server: LangfuseServer,
) -> None:
    hop = collector()
    hop.send_to(*services["langfuse-route"]["entrypoint"])
    program = receiver(hop.url)
    key = services["receiver"]["environment"]["OTEL_VOICE_API_KEY"]
    backend = {"authorization": f"Bearer {key}"}
    session = httpx.post(f"{program.url}/v1/sessions", json={}, headers=backend).raise_for_status().json()
    page = {"authorization": f"Bearer {session['token']}"}
    turn = {"type": "turn_complete", "turn_id": "t1", "user_text": "How is Rome?", "agent_text": "Clear and warm."}
    httpx.post(session["events_url"], json={"events": [turn]}, headers=page).raise_for_status()
    end = session["events_url"].replace("/events", "/end")
    httpx.post(end, headers=page).raise_for_status()

    spans = wait_for(lambda: jaeger.trace(session["trace_id"]), 30, "the trace in Jaeger", program.log)
    assert "voice_session" in [span.name for span in spans]
    wait_for(lambda: [span for span in langfuse_server.spans if span.name == "voice_session"], 30, "it at Langfuse")
