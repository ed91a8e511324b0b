"""The documentation says what is there: links, settings, commands, messages, numbers that have a name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from otel_voice import semconv, spans
from otel_voice.arguments import parser
from otel_voice.cli import RUNS
from tests.documents import DESCRIPTION, PAGES, ROOT, anchors, codes, links, name, snippets
from tests.real import Receiver

DOCS = ROOT / "docs"
EACH = pytest.mark.parametrize("page", PAGES, ids=name)
VARIABLE = re.compile(r"\b(?:OTEL|LANGFUSE|FORWARDED|OTELCOL)_[A-Z0-9_]*[A-Z0-9]\b")
# Of others: where it says what it is.
OTHERS = {"FORWARDED_ALLOW_IPS": Path(uvicorn.__file__).parent / "config.py"}


@cache
def code() -> str:
    """All that runs: the package, the examples, the collector's configuration, what builds and tests it."""
    files = [path for folder in ("otel_voice", "examples", "tests") for path in (ROOT / folder).rglob("*")]
    texts = [
        path for path in files if path.suffix in (".py", ".js", ".mjs", ".sql") and "node_modules" not in str(path)
    ]
    texts = [path for path in texts if path.name not in ("test_docs.py", "test_snippets.py")]
    return "\n".join(path.read_text() for path in [*texts, ROOT / "collector-config.yaml", ROOT / "Makefile"])


@cache
def messages() -> str:
    """What the package says, with each string's parts put together as the compiler does."""
    files = [path for suffix in ("py", "js") for path in (ROOT / "otel_voice").rglob(f"*.{suffix}")]
    text = "\n".join(path.read_text() for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


# Links


@EACH
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if urlsplit(link).scheme:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), f"{link}: there are {sorted(anchors(path))}"


@EACH
def test_every_address_is_well_formed(page: Path) -> None:
    for link in links(page):
        if scheme := urlsplit(link).scheme:
            parts = urlsplit(link)
            assert scheme == "https" and parts.hostname and "." in parts.hostname, link
            assert " " not in link, link


def test_the_readme_takes_three_minutes_beside_its_code_and_tables() -> None:
    text = re.sub(r"^```.*?^```$|^\|.*?$|^!.*?$", "", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert len(text.split()) <= 750


def test_the_readme_leads_to_every_page() -> None:
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md") if page != DESCRIPTION} <= set(links(ROOT / "README.md"))


# Settings and commands


def known_variables() -> set[str]:
    return set(VARIABLE.findall(code())) | {each for each, path in OTHERS.items() if each in path.read_text()}


@EACH
def test_every_variable_is_one_that_something_reads(page: Path) -> None:
    said = {each for each in VARIABLE.findall(page.read_text()) if not each.endswith("_")}
    assert said - known_variables() - {"OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES"} == set()


def test_every_setting_is_on_the_page_of_settings() -> None:
    settings = (ROOT / "otel_voice" / "settings.py").read_text()
    read = set(re.findall(r'"((?:OTEL|LANGFUSE)_[A-Z_]+)"', settings))
    read |= {f"OTEL_EXPORTER_OTLP_{name}" for name in re.findall(r'_either\(env, "(\w+)"\)', settings)}
    said = (DOCS / "settings.md").read_text()
    said = re.sub(r"`(_[A-Z]+)`", r"OTEL_EXPORTER_OTLP\1", said).replace("OTEL_EXPORTER_OTLP_TRACES_*", "")
    missing = {each for each in read if each not in said and "_TRACES_" not in each}
    assert missing == set()


def commands(of: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Every command with its options."""
    yield " ".join(words), {option for action in of._actions for option in action.option_strings}
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from commands(inner, (*words, word))


def test_every_command_and_option_is_one_of_the_command_line() -> None:
    known = dict(commands(parser(RUNS)))
    lines = [line for each in snippets() if each.language == "sh" for line in each.text.splitlines()]
    for line in [*lines, *(each for page in PAGES for each in codes(page))]:
        for called in re.findall(r"^(?:[A-Z_]+=\S+ )*(?:\S*/)?otel-voice ([a-z][^|;&#\n]*|--\w+)", line):
            words = called.split()
            command = words[0] if words[0] in known else ""
            if len(words) > 1 and f"{command} {words[1]}" in known:
                command = f"{command} {words[1]}"
            assert command or words[0].startswith("--"), line
            assert set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", called)) <= known[command], line


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    top = {command.split()[0] for command, _ in commands(parser(RUNS)) if command}
    assert {each for each in top if f"`otel-voice {each}" not in readme} == set()


# What one sees


def tables(text: str) -> list[list[str]]:
    """Their rows, the head first."""
    found = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.M)]
    return [[head, *rows] for head, _, *rows in found]


def test_every_metric_is_one_of_the_receiver(receiver: Callable[..., Receiver]) -> None:
    # By their types: one is told only while a span waits.
    told = set(re.findall(r"^# TYPE (otel_voice_\w+)", httpx.get(f"{receiver().url}/metrics").text, re.M))
    for page in PAGES:
        said = set(re.findall(r"\botel_voice_[a-z]+_[a-z_]+[a-z]\b", page.read_text())) - {"otel_voice_normal"}
        assert said <= told, name(page)


def test_every_attribute_and_span_is_one_of_the_mapping() -> None:
    values = [value for key, value in vars(semconv).items() if key.isupper() and isinstance(value, str)]
    known = {*values, *semconv.USAGE_KEYS.values()}
    for page in [DOCS / f"{each}.md" for each in ("langfuse", "jaeger", "troubleshooting", "stored")]:
        for said in codes(page):
            attribute = said.partition("=")[0]
            if re.fullmatch(r"(?:voice|gen_ai|session|user|error|langfuse)\.[\w.]+\w(?:\.\*)?", attribute):
                stem = attribute.removesuffix(".*")
                assert stem in known or any(each.startswith(f"{stem}.") for each in known), f"{page.name}: {said}"


def test_every_message_is_one_that_is_said() -> None:
    """In tables of the page of troubles: the code of the columns that are headed so."""
    text = (DOCS / "troubleshooting.md").read_text()
    found: list[str] = []
    for head, *rows in tables(text):
        columns = [n for n, each in enumerate(head.split("|")) if each.strip() in ("it says", "reason", "message")]
        found += [code for row in rows for n in columns for code in re.findall(r"`([^`]+)`", row.split("|")[n])]
    assert len(found) > 20
    quoted = re.findall(r"\*\*You see\*\* `([^`]+)`", text) + re.findall(r"`(otel-voice: [^`]+)`", text)
    system = ("violates the following", "cannot be bound: Address already in use", "cannot be used: Permission denied")
    for said in [*found, *quoted]:
        if said.startswith(system):
            said = said.partition(":")[0]
        if "violates" not in said:
            assert said in messages(), said


def test_doctor_says_what_the_pages_show() -> None:
    """But for what stands between its words: addresses, numbers, what others said."""
    shown = [line for each in snippets() for line in each.text.splitlines() if re.match(r"(ok|look|mend) ", line)]
    assert len(shown) > 10
    for line in shown:
        name, text = re.split(r"  +", line, maxsplit=2)[1:]
        assert f'"{name}"' in messages(), line
        for words in re.split(r"\(.*?\)|\S*[\d/]\S*|Jaeger,|Langfuse,|voice$", text):
            if len(words.split()) > 2:
                assert words.strip(" ;:,") in messages(), words


def test_every_end_reason_is_one_that_somebody_gives_and_has_words_on_the_page() -> None:
    (rows,) = [rows for head, *rows in tables((DOCS / "api.md").read_text()) if head.startswith("| end reason |")]
    said = {row.split("`")[1] for row in rows}
    verdicts = (ROOT / "otel_voice" / "pages" / "verdict.js").read_text()
    (known,) = re.findall(r"const ENDS = \{(.*?)\};", verdicts, re.S)
    assert said <= set(re.findall(r"^  (\w+):", known, re.M))
    for reason in said:
        assert re.search(rf"""["']{reason}["']""", code()), reason


def test_every_event_is_described_and_no_other() -> None:
    events = (ROOT / "otel_voice" / "events.py").read_text().partition("# Facts that only an adapter states")[0]
    (rows,) = [rows for head, *rows in tables((DOCS / "api.md").read_text()) if head.startswith("| event |")]
    said = {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert said == set(re.findall(r'tag="(\w+)"', events))


def test_a_session_id_that_is_a_uuid_is_the_trace_id_without_its_dashes() -> None:
    session = "33ba407b-7f73-4314-b350-96c5c3d70a12"
    assert spans.trace_id(session) == session.replace("-", "")
