"""Settings: read once, command line before environment, standard names where they exist."""

from __future__ import annotations

import base64
import shlex
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
SERVICE_NAME = "otel_voice"
# Shorter values (a version, a tenant) are no secrets, and could be part of any text.
SECRET_CHARS = 8
LANGFUSE_CLOUD = "https://cloud.langfuse.com"
# What is delivered is kept so long, as long as there is room.
RETENTION_DAYS = 30.0
MAX_STORE_MIB = 1024
# A laptop's; what is delivered of the demo is no loss. They go with its folder, so that every command knows of them.
DEMO_RETENTION_DAYS = 7.0
DEMO_MAX_STORE_MIB = 256
# What is shorter can be guessed from one token.
TOKEN_KEY_CHARS = 32

Capture = Literal["on", "off", "masked"]


class BadSetting(Exception):
    """One sentence: which setting, what is wrong, how to mend it."""


class Export(Struct, frozen=True):
    """Where spans go. `url` is the whole address; `timeout` is in seconds."""

    url: str
    headers: dict[str, str]
    timeout: float
    gzip: bool
    certificate: str | None = None

    @property
    def secrets(self) -> list[str]:
        return secrets_in(self.headers.values())


class Settings(Struct, frozen=True):
    host: str = "127.0.0.1"
    port: int = 8770
    data_dir: Path = Path("data")
    api_key: str | None = None
    token_key: str | None = None
    allowed_origins: tuple[str, ...] = ()
    capture: Capture = "on"
    synchronous: str = "FULL"
    retention_days: float = RETENTION_DAYS
    max_store_mib: int = MAX_STORE_MIB
    resource: dict[str, str] = field(default_factory=lambda: {"service.name": SERVICE_NAME})
    export: Export | None = None
    # The operator has said that spans go nowhere; without an address they wait for one.
    export_nothing: bool = False
    # Where pages reach the receiver, if that is not the address by which the app's backend asks.
    public_url: str | None = None
    # Where a trace can be looked at: its id is added to these.
    jaeger_url: str | None = None
    langfuse_url: str | None = None
    # For whom the pages are where there is an API key; they get a cookie for it.
    viewer_token: str | None = None

    @property
    def loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def capture_content(self) -> bool:
        """Whether spans carry what was said."""
        return self.capture != "off"

    @property
    def token_keys(self) -> tuple[str, ...]:
        """The first signs; all of them verify."""
        return _list(self.token_key or "")


def read(
    env: Mapping[str, str], host: str | None = None, port: int | None = None, data_dir: str | None = None
) -> Settings:
    """Raises BadSetting with a sentence for the first bad value."""
    directory = Path(data_dir or env.get("OTEL_VOICE_DATA_DIR") or default_data_dir(env))
    is_demo = directory.resolve() == demo_data_dir(env).resolve()
    days, mib = (DEMO_RETENTION_DAYS, DEMO_MAX_STORE_MIB) if is_demo else (RETENTION_DAYS, MAX_STORE_MIB)
    settings = Settings(
        host=host or env.get("OTEL_VOICE_HOST") or "127.0.0.1",
        port=port if port is not None else _port(env),
        data_dir=directory,
        api_key=_secret(env, "OTEL_VOICE_API_KEY", 16),
        token_key=_token_keys(env),
        allowed_origins=_origins(env),
        capture=_capture(env),
        synchronous=_choice(env, "OTEL_VOICE_SYNCHRONOUS", "FULL", ("FULL", "NORMAL")),
        retention_days=_number(env, "OTEL_VOICE_RETENTION_DAYS", days, 1, 36_500),
        max_store_mib=int(_number(env, "OTEL_VOICE_MAX_STORE_MIB", mib, 16, 2**24)),
        resource=_resource(env),
        export=export(env),
        export_nothing=_choice(env, "OTEL_TRACES_EXPORTER", "otlp", ("otlp", "none")) == "none",
        public_url=_public_url(env),
        jaeger_url=_page(env, "OTEL_VOICE_JAEGER_URL"),
        langfuse_url=_page(env, "OTEL_VOICE_LANGFUSE_URL"),
        viewer_token=_secret(env, "OTEL_VOICE_VIEWER_TOKEN", 16),
    )
    if settings.api_key is None and not settings.loopback:
        raise BadSetting(
            f"--host {settings.host} can be reached from outside: set OTEL_VOICE_API_KEY, or bind 127.0.0.1"
        )
    if settings.api_key is None and settings.public_url and not _is_loopback(settings.public_url):
        raise BadSetting(
            "OTEL_VOICE_PUBLIC_URL is not of this machine: set OTEL_VOICE_API_KEY, without which nobody else may ask"
        )
    return settings


def secrets_in(values: Iterable[str]) -> list[str]:
    """What must not be shown of these, whole and by its words; longest first, since one may be a part of another."""
    parts = {part for value in values for part in (value, *value.split())}
    return sorted((part for part in parts if len(part) >= SECRET_CHARS), key=len, reverse=True)


def default_data_dir(env: Mapping[str, str]) -> Path:
    return Path(env.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "otel-voice"


def demo_data_dir(env: Mapping[str, str]) -> Path:
    return default_data_dir(env) / "demo"


def data_dir_option(settings: Settings, env: Mapping[str, str]) -> str:
    """What another command needs beside this environment, to find the same store."""
    by_env = env.get("OTEL_VOICE_DATA_DIR") or default_data_dir(env)
    return "" if settings.data_dir == Path(by_env) else f" --data-dir {shlex.quote(str(settings.data_dir))}"


def _port(env: Mapping[str, str]) -> int:
    text = env.get("OTEL_VOICE_PORT") or "8770"
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise BadSetting(f"OTEL_VOICE_PORT must be a number from 0 to 65535, not {text!r}")
    return int(text)


def _secret(env: Mapping[str, str], name: str, least: int) -> str | None:
    value = env.get(name) or None
    if value is not None and len(value) < least:
        raise BadSetting(f"{name} must have at least {least} characters")
    return value


def _token_keys(env: Mapping[str, str]) -> str | None:
    value = env.get("OTEL_VOICE_TOKEN_KEY") or None
    if value is not None and not all(len(key) >= TOKEN_KEY_CHARS for key in _list(value) or ("",)):
        raise BadSetting(
            f"OTEL_VOICE_TOKEN_KEY must have at least {TOKEN_KEY_CHARS} characters, and so must each key of a list"
        )
    return value


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _capture(env: Mapping[str, str]) -> Capture:
    """Our own variable says more than the standard's, which counts where ours is not set."""
    captured = _flag(env, "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", True)
    default = "on" if captured else "off"
    return cast("Capture", _choice(env, "OTEL_VOICE_CAPTURE_CONTENT", default, ("on", "off", "masked")))


def _origins(env: Mapping[str, str]) -> tuple[str, ...]:
    origins = _list(env.get("OTEL_VOICE_ALLOWED_ORIGINS", ""))
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise BadSetting(
                f"OTEL_VOICE_ALLOWED_ORIGINS must list origins like https://app.example.com, not {origin!r}"
            )
    return origins


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    return _choice(env, name, str(default).lower(), ("true", "false")) == "true"


def _choice(env: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    """Compared without regard to case; the answer is spelled as in `choices`."""
    value = env.get(name) or default
    for choice in choices:
        if value.lower() == choice.lower():
            return choice
    raise BadSetting(f"{name} must be {' or '.join(choices)}, not {value!r}")


def _resource(env: Mapping[str, str]) -> dict[str, str]:
    """No instance id of a process: the same session must give the same bytes after a restart."""
    said = _pairs(env.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if said is None:
        raise BadSetting("OTEL_RESOURCE_ATTRIBUTES must be a list like key=value,key=value")
    named = {"service.name": env["OTEL_SERVICE_NAME"]} if env.get("OTEL_SERVICE_NAME") else {}
    return {"service.name": SERVICE_NAME, **said, **named}


def _number(env: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    text = env.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise BadSetting(f"{name} must be a number from {least} to {most}, not {text!r}")
    return number


def export(env: Mapping[str, str]) -> Export | None:
    """Where spans go, by OTEL_EXPORTER_OTLP_* or else by LANGFUSE_*; None where neither says so, or where
    OTEL_TRACES_EXPORTER is none. Raises BadSetting."""
    if _choice(env, "OTEL_TRACES_EXPORTER", "otlp", ("otlp", "none")) == "none":
        return None
    url = _traces_url(env)
    if url is None:
        return _langfuse(env)
    protocol = _either(env, "PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        raise BadSetting(
            f"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, the one that is spoken here, not {protocol!r}"
        )
    compression = _either(env, "COMPRESSION")
    if compression not in (None, "gzip", "none"):
        raise BadSetting(f"OTEL_EXPORTER_OTLP_COMPRESSION must be gzip or none, not {compression!r}")
    return Export(
        url=url,
        headers=_headers(env),
        timeout=_timeout(env),
        gzip=compression == "gzip" or (compression is None and not _is_loopback(url)),
        certificate=_certificate(env),
    )


def _either(env: Mapping[str, str], name: str) -> str | None:
    """A signal's own variable goes before the common one, as the specification says."""
    return env.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or env.get(f"OTEL_EXPORTER_OTLP_{name}") or None


def _traces_url(env: Mapping[str, str]) -> str | None:
    if own := env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return _url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", own)
    if common := env.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        if common.rstrip("/").endswith("/v1/traces"):
            raise BadSetting(
                "OTEL_EXPORTER_OTLP_ENDPOINT is the address to which /v1/traces is added: leave that out, "
                "or use OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
            )
        return _url("OTEL_EXPORTER_OTLP_ENDPOINT", common).rstrip("/") + "/v1/traces"
    return None


def _url(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url
        valid = plain and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if "@" in url:
        # The address is shown at the start and in the log.
        raise BadSetting(f"{name} must hold no user or password; a header carries them")
    if not valid:
        raise BadSetting(f"{name} must be an address like http://127.0.0.1:4318, not {url!r}")
    return url


def _public_url(env: Mapping[str, str]) -> str | None:
    url = env.get("OTEL_VOICE_PUBLIC_URL") or ""
    if any(mark in url for mark in "?#@"):
        raise BadSetting(
            "OTEL_VOICE_PUBLIC_URL must be an address like https://voice.example.com/otel: no query, fragment, user "
            "or password"
        )
    return _page(env, "OTEL_VOICE_PUBLIC_URL")


def _page(env: Mapping[str, str], name: str) -> str | None:
    """An address that more is added to."""
    url = env.get(name)
    return _url(name, url).rstrip("/") if url else None


def _headers(env: Mapping[str, str]) -> dict[str, str]:
    """Never shown: they carry keys."""
    headers = _pairs(_either(env, "HEADERS") or "")
    if headers is None:
        raise BadSetting("OTEL_EXPORTER_OTLP_HEADERS must be a list like name=value,name=value")
    if not all(f"{name}{value}".isascii() and f"{name}{value}".isprintable() for name, value in headers.items()):
        raise BadSetting("OTEL_EXPORTER_OTLP_HEADERS must hold printable ASCII characters only")
    return {name.lower(): value for name, value in headers.items()}


def _pairs(text: str) -> dict[str, str] | None:
    """`key=value,key=value` with percent-encoding, as the specification writes lists; None where it is none."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(equals and key.strip() for key, equals, _ in pairs):
        return None
    return {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}


def _timeout(env: Mapping[str, str]) -> float:
    """The specification counts milliseconds, OpenTelemetry Python seconds: no sensible value is both."""
    text = _either(env, "TIMEOUT") or "10"
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0
    if not (0 < timeout <= 600 or 1_000 <= timeout <= 600_000):
        raise BadSetting(
            "OTEL_EXPORTER_OTLP_TIMEOUT must be a number of seconds up to 600, or of milliseconds from 1000, "
            f"not {text!r}"
        )
    return timeout if timeout <= 600 else timeout / 1000


def _certificate(env: Mapping[str, str]) -> str | None:
    path = _either(env, "CERTIFICATE")
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl's own errors among them
        raise BadSetting(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE must name a file of certificates (PEM), not {path!r}: {error.strerror}"
        ) from None
    return path


def _langfuse(env: Mapping[str, str]) -> Export | None:
    public, secret = env.get("LANGFUSE_PUBLIC_KEY"), env.get("LANGFUSE_SECRET_KEY")
    if not public and not secret:
        return None
    if not public or not secret:
        missing = "LANGFUSE_SECRET_KEY" if public else "LANGFUSE_PUBLIC_KEY"
        raise BadSetting(f"{missing} is not set: Langfuse needs both keys")
    name = "LANGFUSE_BASE_URL" if env.get("LANGFUSE_BASE_URL") else "LANGFUSE_HOST"
    base = _url(name, env.get(name) or LANGFUSE_CLOUD).rstrip("/")
    return Export(
        url=f"{base}/api/public/otel/v1/traces",
        headers={
            "authorization": "Basic " + base64.b64encode(f"{public}:{secret}".encode()).decode(),
            "x-langfuse-ingestion-version": "4",
        },
        timeout=_timeout(env),
        gzip=not _is_loopback(base),
        certificate=_certificate(env),
    )


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK
