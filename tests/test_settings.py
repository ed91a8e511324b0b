"""Settings: where each value comes from, and the sentence that a bad one stops the start with."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from otel_voice.settings import BadSetting, Export, Settings, read

SECRET = "s3cr3t-that-nobody-may-read"


def export(**env: str) -> Export:
    found = read(env).export
    assert found is not None
    return found


def sentence(env: dict[str, str]) -> str:
    with pytest.raises(BadSetting) as bad:
        read(env)
    return str(bad.value)


def test_without_any_setting_it_listens_on_loopback_and_sends_nowhere(tmp_path: Path) -> None:
    settings = read({"XDG_DATA_HOME": str(tmp_path)})
    assert settings == Settings(data_dir=tmp_path / "otel-voice")
    assert (settings.host, settings.port, settings.export) == ("127.0.0.1", 8770, None)


def test_the_command_line_goes_before_the_environment(tmp_path: Path) -> None:
    env = {"OTEL_VOICE_HOST": "::1", "OTEL_VOICE_PORT": "1", "OTEL_VOICE_DATA_DIR": "elsewhere"}
    settings = read(env, host="localhost", port=0, data_dir=str(tmp_path))
    assert (settings.host, settings.port, settings.data_dir) == ("localhost", 0, tmp_path)
    settings = read(env)
    assert (settings.host, settings.port, settings.data_dir) == ("::1", 1, Path("elsewhere"))


def test_an_empty_value_is_none() -> None:
    empty = ["HOST", "PORT", "API_KEY", "PUBLIC_URL", "TOKEN_KEY", "ALLOWED_ORIGINS", "SYNCHRONOUS"]
    env = {f"OTEL_VOICE_{name}": "" for name in empty} | {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "LANGFUSE_PUBLIC_KEY": ""}
    assert read({"HOME": "/", **env}) == read({"HOME": "/"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "voice.example.com"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    said = sentence({"OTEL_VOICE_HOST": host})
    assert said == f"--host {host} can be reached from outside: set OTEL_VOICE_API_KEY, or bind 127.0.0.1"
    assert read({"OTEL_VOICE_API_KEY": SECRET}, host=host).host == host


def test_where_traces_can_be_looked_at_and_by_whom() -> None:
    settings = read(
        {
            "OTEL_VOICE_JAEGER_URL": "http://127.0.0.1:16686/",
            "OTEL_VOICE_LANGFUSE_URL": "https://cloud.langfuse.com/project/p",
            "OTEL_VOICE_VIEWER_TOKEN": SECRET,
        }
    )
    assert settings.jaeger_url == "http://127.0.0.1:16686"
    assert settings.langfuse_url == "https://cloud.langfuse.com/project/p"
    assert settings.viewer_token == SECRET
    assert read({}).jaeger_url is read({}).langfuse_url is read({}).viewer_token is None


PUBLIC = "OTEL_VOICE_PUBLIC_URL"


@pytest.mark.parametrize("url", ["https://voice.example.com", "https://voice.example.com:8443/otel", "http://10.0.0.5"])
def test_pages_reach_it_elsewhere_where_a_key_says_who_may_make_sessions(url: str) -> None:
    for said in (url, f"{url}/"):
        assert read({PUBLIC: said, "OTEL_VOICE_API_KEY": SECRET}).public_url == url
    assert sentence({PUBLIC: url}).startswith("OTEL_VOICE_PUBLIC_URL is not of this machine: set OTEL_VOICE_API_KEY")


def test_without_a_key_pages_of_this_machine_may_reach_it_by_another_path() -> None:
    assert read({PUBLIC: "http://localhost:5173/otel/"}).public_url == "http://localhost:5173/otel"


OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
BAD: list[tuple[dict[str, str], str]] = [
    ({"OTEL_VOICE_PORT": "http"}, "OTEL_VOICE_PORT must be a number from 0 to 65535"),
    ({"OTEL_VOICE_PORT": "-1"}, "OTEL_VOICE_PORT must be"),
    ({"OTEL_VOICE_PORT": "65536"}, "OTEL_VOICE_PORT must be"),
    ({"OTEL_VOICE_PORT": "80.5"}, "OTEL_VOICE_PORT must be"),
    ({"OTEL_VOICE_API_KEY": "s3cr3t"}, "OTEL_VOICE_API_KEY must have at least 16 characters"),
    ({"OTEL_VOICE_TOKEN_KEY": "s3cr3t"}, "OTEL_VOICE_TOKEN_KEY must have at least 32 characters"),
    ({"OTEL_VOICE_TOKEN_KEY": f"{'k' * 32},s3cr3t"}, "OTEL_VOICE_TOKEN_KEY must have at least 32 characters"),
    ({"OTEL_VOICE_TOKEN_KEY": " , "}, "OTEL_VOICE_TOKEN_KEY must have at least 32 characters"),
    ({"OTEL_VOICE_CAPTURE_CONTENT": "yes"}, "OTEL_VOICE_CAPTURE_CONTENT must be on or off or masked"),
    ({"OTEL_VOICE_ALLOWED_ORIGINS": "*"}, "OTEL_VOICE_ALLOWED_ORIGINS must list origins like"),
    ({"OTEL_VOICE_ALLOWED_ORIGINS": "app.example.com"}, "OTEL_VOICE_ALLOWED_ORIGINS must"),
    ({"OTEL_VOICE_ALLOWED_ORIGINS": "https://app.example.com/"}, "OTEL_VOICE_ALLOWED_ORIGINS must"),
    ({"OTEL_VOICE_ALLOWED_ORIGINS": "https://a.example, ftp://b.example"}, "OTEL_VOICE_ALLOWED_ORIGINS must"),
    ({"OTEL_VOICE_SYNCHRONOUS": "OFF"}, "OTEL_VOICE_SYNCHRONOUS must be FULL or NORMAL"),
    ({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "yes"}, "OTEL_INSTRUMENTATION_GENAI_CAPTURE"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be an address like"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:99999"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://\u2603.example"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x/\x07"}, "OTEL_EXPORTER_OTLP_ENDPOINT must"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be"),
    (OTLP | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"),
    (OTLP | {"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "OTEL_EXPORTER_OTLP_COMPRESSION must be gzip or none"),
    (OTLP | {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds"),
    (OTLP | {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TIMEOUT must"),
    (OTLP | {"OTEL_EXPORTER_OTLP_TIMEOUT": "nan"}, "OTEL_EXPORTER_OTLP_TIMEOUT must"),
    (OTLP | {"OTEL_EXPORTER_OTLP_HEADERS": SECRET}, "OTEL_EXPORTER_OTLP_HEADERS must be a list like"),
    (OTLP | {"OTEL_EXPORTER_OTLP_HEADERS": f"a=1,{SECRET}"}, "OTEL_EXPORTER_OTLP_HEADERS must"),
    (OTLP | {"OTEL_EXPORTER_OTLP_CERTIFICATE": "no-such-file.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE must name a file"),
    (OTLP | {"OTEL_EXPORTER_OTLP_CERTIFICATE": __file__}, "OTEL_EXPORTER_OTLP_CERTIFICATE must name a file"),
    (OTLP | {"OTEL_EXPORTER_OTLP_HEADERS": "x=\u2603"}, "OTEL_EXPORTER_OTLP_HEADERS must hold printable"),
    (OTLP | {"OTEL_EXPORTER_OTLP_HEADERS": "x=a%0Ab"}, "OTEL_EXPORTER_OTLP_HEADERS must hold printable"),
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp or none"),
    ({"OTEL_VOICE_RETENTION_DAYS": "0.5"}, "OTEL_VOICE_RETENTION_DAYS must be a number from 1 to 36500"),
    ({"OTEL_VOICE_RETENTION_DAYS": "nan"}, "OTEL_VOICE_RETENTION_DAYS must"),
    ({PUBLIC: "voice.example.com"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({PUBLIC: "wss://voice.example.com"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({PUBLIC: "https:///otel"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({PUBLIC: f"https://voice.example.com/?key={SECRET}"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({PUBLIC: f"https://voice.example.com/#{SECRET}"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({PUBLIC: f"https://user:{SECRET}@voice.example.com"}, "OTEL_VOICE_PUBLIC_URL must be an address like"),
    ({"OTEL_VOICE_JAEGER_URL": "127.0.0.1:16686"}, "OTEL_VOICE_JAEGER_URL must be an address"),
    ({"OTEL_VOICE_LANGFUSE_URL": "cloud.langfuse.com"}, "OTEL_VOICE_LANGFUSE_URL must be an address"),
    ({"OTEL_VOICE_VIEWER_TOKEN": "s3cr3t"}, "OTEL_VOICE_VIEWER_TOKEN must have at least 16 characters"),
    ({"OTEL_VOICE_MAX_STORE_MIB": "1"}, "OTEL_VOICE_MAX_STORE_MIB must be a number from 16"),
    ({"LANGFUSE_PUBLIC_KEY": "pk"}, "LANGFUSE_SECRET_KEY is not set: Langfuse needs both keys"),
    ({"LANGFUSE_SECRET_KEY": SECRET}, "LANGFUSE_PUBLIC_KEY is not set: Langfuse needs both keys"),
    ({"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_BASE_URL": "x"}, "LANGFUSE_BASE_URL must"),
    ({"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": "x"}, "LANGFUSE_HOST must"),
]


@pytest.mark.parametrize(("env", "begins"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_value_is_named_in_one_sentence_that_tells_no_secret(env: dict[str, str], begins: str) -> None:
    said = sentence(env)
    assert said.startswith(begins)
    assert "s3cr3t" not in said
    assert "\n" not in said


def test_how_long_and_how_much_is_kept() -> None:
    usual, given = read({}), read({"OTEL_VOICE_RETENTION_DAYS": "2.5", "OTEL_VOICE_MAX_STORE_MIB": "64"})
    assert (usual.retention_days, usual.max_store_mib) == (30, 1024)
    assert (given.retention_days, given.max_store_mib) == (2.5, 64)


def test_whoever_reads_the_demos_own_folder_knows_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env, demo = {"XDG_DATA_HOME": str(tmp_path)}, tmp_path / "otel-voice" / "demo"
    demo.mkdir(parents=True)
    monkeypatch.chdir(demo)
    for said in (str(demo), f"{demo}/", "."):
        settings = read(env, data_dir=said)
        assert (settings.retention_days, settings.max_store_mib) == (7, 256)
    assert read(env | {"OTEL_VOICE_MAX_STORE_MIB": "64"}, data_dir=str(demo)).max_store_mib == 64
    assert read(env, data_dir=str(tmp_path / "demo")).max_store_mib == 1024


# Where spans go


def test_spans_go_nowhere_where_the_operator_says_so_and_wait_where_nobody_says_anything() -> None:
    nowhere, unsaid = read(OTLP | {"OTEL_TRACES_EXPORTER": "none"}), read({})
    assert (nowhere.export, nowhere.export_nothing) == (None, True)
    assert (unsaid.export, unsaid.export_nothing) == (None, False)


def test_the_common_endpoint_gets_the_signals_path_and_its_own_one_is_taken_as_it_is() -> None:
    assert export(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318").url == "http://c:4318/v1/traces"
    assert export(OTEL_EXPORTER_OTLP_ENDPOINT="https://c/otlp/").url == "https://c/otlp/v1/traces"
    own = export(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://t:4318/in")
    assert own.url == "http://t:4318/in"


def test_the_signals_own_variable_goes_before_the_common_one() -> None:
    common = {"TIMEOUT": "5", "HEADERS": "a=1", "COMPRESSION": "gzip"}
    own = {"TIMEOUT": "7", "HEADERS": "b=2", "COMPRESSION": "none"}
    env = OTLP | {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in common.items()}
    found = export(**env)
    assert (found.timeout, found.headers, found.gzip) == (5, {"a": "1"}, True)
    found = export(**env, **{f"OTEL_EXPORTER_OTLP_TRACES_{name}": value for name, value in own.items()})
    assert (found.timeout, found.headers, found.gzip) == (7, {"b": "2"}, False)


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("a=1", {"a": "1"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a = 1 , b=2, ", {"a": "1", "b": "2"}),
        ("Authorization=Basic%20cGs6c2s=", {"authorization": "Basic cGs6c2s="}),
        ("authorization=Basic cGs6c2s=", {"authorization": "Basic cGs6c2s="}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_headers_are_read_as_the_specification_writes_them(text: str, headers: dict[str, str]) -> None:
    assert export(**OTLP, OTEL_EXPORTER_OTLP_HEADERS=text).headers == headers


def test_only_what_crosses_a_network_is_compressed() -> None:
    assert export(OTEL_EXPORTER_OTLP_ENDPOINT="https://collector.example.com").gzip
    assert not export(OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:4318").gzip
    assert not export(OTEL_EXPORTER_OTLP_ENDPOINT="http://[::1]:4318").gzip


LANGFUSE = {"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk"}


def test_langfuses_keys_alone_send_straight_to_it() -> None:
    found = export(**LANGFUSE)
    assert found.url == "https://cloud.langfuse.com/api/public/otel/v1/traces"
    assert found.headers == {
        "authorization": "Basic " + base64.b64encode(b"pk:sk").decode(),
        "x-langfuse-ingestion-version": "4",
    }


@pytest.mark.parametrize("name", ["LANGFUSE_BASE_URL", "LANGFUSE_HOST"])
def test_langfuses_address_can_be_another(name: str) -> None:
    url = export(**LANGFUSE, **{name: "https://langfuse.example.com/"}).url
    assert url == "https://langfuse.example.com/api/public/otel/v1/traces"


def test_an_otlp_endpoint_goes_before_langfuses_keys() -> None:
    found = export(**LANGFUSE, **OTLP)
    assert (found.url, found.headers) == ("http://127.0.0.1:4318/v1/traces", {})


def test_origins_are_a_list() -> None:
    env = {"OTEL_VOICE_ALLOWED_ORIGINS": "https://a.example, http://localhost:3000,"}
    assert read(env).allowed_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize(
    ("ours", "standard", "capture"),
    [
        ("", "", "on"),
        ("", "TRUE", "on"),
        ("", "false", "off"),
        ("masked", "", "masked"),
        ("Masked", "false", "masked"),
        ("off", "true", "off"),
        ("on", "false", "on"),
    ],
)
def test_content_is_captured_unless_it_is_said_not_to_by_our_variable_before_the_standards(
    ours: str, standard: str, capture: str
) -> None:
    env = {"OTEL_VOICE_CAPTURE_CONTENT": ours, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": standard}
    assert read(env).capture == capture
    assert read(env).capture_content is (capture != "off")


def test_token_keys_are_a_list_of_which_the_first_signs() -> None:
    new, old = "n" * 32, "o" * 40
    assert read({"OTEL_VOICE_TOKEN_KEY": f"{new}, {old},"}).token_keys == (new, old)
    assert read({"OTEL_VOICE_TOKEN_KEY": new}).token_keys == (new,)
    assert read({}).token_keys == ()


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(BadSetting, match="no user or password") as refused:
        read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@127.0.0.1:4318"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(("text", "seconds"), [("2.5", 2.5), ("600", 600), ("1000", 1), ("10000", 10)])
def test_a_timeout_is_seconds_or_as_the_specification_has_it_milliseconds(text: str, seconds: float) -> None:
    assert export(**OTLP, OTEL_EXPORTER_OTLP_TIMEOUT=text).timeout == seconds


def test_an_endpoint_that_has_the_path_already_is_refused() -> None:
    with pytest.raises(BadSetting, match="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        read({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318/v1/traces"})
