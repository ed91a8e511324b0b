"""Imports follow the data: each module may know these of ours, and no others."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "otel_voice"

ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "semconv": set(),
    "settings": set(),
    "bodies": set(),
    "fields": set(),
    "events": {"bodies", "fields"},
    "spans": set(),
    "tokens": set(),
    "store": {"store"},
    "links": set(),
    "loud": set(),
    "sources": {"events"},
    "adapters": {"adapters", "events"},
    "turns": {"events"},
    "conversation": {"events", "turns"},
    "chat": {"turns"},
    "usage": {"events", "semconv"},
    "trace": {"chat", "events", "semconv", "spans", "turns", "usage"},
    "summary": {"turns", "usage"},
    "session": {
        "adapters",
        "chat",
        "conversation",
        "events",
        "semconv",
        "sources",
        "spans",
        "summary",
        "trace",
        "turns",
        "usage",
    },
    "otlp": {"spans"},
    "words": {"semconv", "spans"},
    "processor": {"exporter", "loud", "settings", "store"},
    "mapped": {"events", "session", "spans", "store", "summary"},
    "opened": {"events", "session", "spans", "store", "summary"},
    "changes": {"store"},
    "sessions": {
        "changes",
        "events",
        "loud",
        "mapped",
        "opened",
        "otlp",
        "session",
        "spans",
        "store",
        "summary",
        "words",
    },
    "content": {"adapters", "events", "semconv"},
    "edge": {"settings", "spans", "tokens"},
    "static_files": set(),
    "origins": {"edge", "settings"},
    "front": {"edge", "origins", "receiver"},
    "receiver": {
        "adapters",
        "bodies",
        "content",
        "edge",
        "events",
        "session",
        "sessions",
        "spans",
        "store",
        "summary",
        "tokens",
    },
    "exporter": {"loud", "settings", "store"},
    "retention": {"loud", "sessions", "store"},
    "findings": set(),
    "probe": {"exporter", "findings", "otlp", "semconv", "settings", "spans"},
    "doctor": {"edge", "fields", "findings", "probe", "semconv", "settings", "store"},
    "arguments": set(),
    "resend": {"exporter", "mapped", "otlp", "session", "settings", "store"},
    "metrics": {"exporter", "sessions", "store"},
    "filters": {"edge", "store"},
    "reads": {"edge"},
    "watching": {"changes", "edge", "mapped", "reads", "sessions", "spans", "store", "summary"},
    "logins": {"bodies", "edge", "settings", "tokens"},
    "viewer": {
        "adapters",
        "download",
        "edge",
        "filters",
        "links",
        "mapped",
        "otlp",
        "reads",
        "recording",
        "sessions",
        "spans",
        "store",
        "summary",
    },
    "calls": {
        "adapters",
        "edge",
        "events",
        "filters",
        "logins",
        "receiver",
        "spans",
        "static_files",
        "summary",
        "viewer",
    },
    "openapi": {"calls", "edge", "events", "receiver", "static_files", "watching"},
    "download": {"bodies", "events", "fields", "otlp", "reads", "spans", "store"},
    "recording": {"adapters", "bodies", "download", "events", "session", "spans", "summary"},
    "replay": {"events", "receiver", "recording", "summary"},
    "backup": {"store", "tokens"},
    "columns": set(),
    "display": {"columns", "findings", "links", "otlp", "semconv", "spans", "store", "summary"},
}
WIRES_ALL = {"app", "cli"}
ONLY_IN = {
    "sqlite3": {"store"},
    "httpx": {"exporter", "findings", "probe", "replay", "resend"},
    "langfuse": {"probe"},
    "rich": {"cli", "display"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names of everything imported, relative imports made absolute."""
    package = ("otel_voice", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            prefix = ".".join(part for part in (base, node.module) if part)
            found |= {f"{prefix}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_knows_only_what_its_layer_may(path: Path) -> None:
    names = imports(path)
    ours = {name.split(".")[1] for name in names if name.startswith("otel_voice.")} - {"__version__"}
    if home(path) not in WIRES_ALL:
        assert home(path) in ALLOWED, f"{home(path)} is a new module: give it its place in the table"
        assert ours <= ALLOWED[home(path)]
    for library, homes in ONLY_IN.items():
        assert home(path) in homes or not any(name.split(".")[0] == library for name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printing = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert home(path) == "cli" or not printing
