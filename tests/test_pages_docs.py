"""The API's reference in a real Chromium: all of the document, from local files only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browsing import until
from tests.real import Receiver
from tests.running import API_KEY

HERE = Path(__file__).parent
PURE = ("reference.test.mjs",)

Look = Callable[..., Page]


@pytest.fixture
def receiving(receiver: Callable[..., Receiver]) -> Receiver:
    return receiver()


@pytest.fixture
def look(context: BrowserContext) -> Iterator[Look]:
    """`look(receiver, address)` opens the page; whatever it says on the console, or asks of others, fails the test."""
    wrong: list[str] = []

    def look(receiving: Receiver, address: str = "/docs", **size: int) -> Page:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.set_viewport_size({"width": size.get("width", 1280), "height": size.get("height", 900)})
        page.on("pageerror", lambda error: wrong.append(f"{error.name}: {error.message}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        host = urlsplit(receiving.url).netloc
        asked = [urlsplit(receiving.url + address).netloc]
        page.on("request", lambda request: asked.append(urlsplit(request.url).netloc))
        page.goto(receiving.url + address)
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
        wrong.extend(f"asked {other}" for other in asked if other not in (host, ""))
        return page

    yield look
    assert not wrong, "; ".join(wrong)


def document_of(receiving: Receiver) -> dict[str, Any]:
    said: dict[str, Any] = httpx.get(f"{receiving.url}/openapi.json").raise_for_status().json()
    return said


def call(page: Page, id_: str) -> Locator:
    return page.locator(f"article#{id_}")


def top_of(page: Page, selector: str) -> float:
    return float(page.locator(selector).evaluate("node => node.getBoundingClientRect().top"))


def test_every_call_and_schema_of_the_document_is_there_with_what_it_says(look: Look, receiving: Receiver) -> None:
    page, said = look(receiving), document_of(receiving)
    for path, methods in said["paths"].items():
        for method, operation in methods.items():
            article = call(page, operation["operationId"])
            expect(article.locator("h3")).to_have_text(f"{method.upper()} {path}")
            expect(article.locator(".summary")).to_have_text(operation["summary"].replace("`", "") + ".")
            expect(article.locator(".answers dt")).to_have_text(list(operation["responses"]))
            names = [each["name"] for each in operation.get("parameters", [])]
            parameters = article.locator("section", has=page.get_by_role("heading", name="Parameters", exact=True))
            expect(parameters.locator("dt code")).to_have_text(names)
            expect(article.locator(".example pre")).to_contain_text(receiving.url)
    for name, schema in said["components"]["schemas"].items():
        article = call(page, f"schema-{name}")
        expect(article.locator(".fields dt code")).to_have_text(list(schema.get("properties", [])))
    expect(page.locator("article")).to_have_count(
        sum(map(len, said["paths"].values())) + len(said["components"]["schemas"])
    )
    expect(page.locator("#contents li")).to_have_count(page.locator("article").count())


def test_every_link_leads_somewhere_in_the_page(look: Look, receiving: Receiver) -> None:
    page = look(receiving)
    lost = page.evaluate(
        """() => [...document.querySelectorAll('a[href^="#"]')]
          .map((link) => link.getAttribute("href"))
          .filter((href) => !document.getElementById(href.slice(1)))"""
    )
    assert lost == []


def test_whoever_has_no_key_and_no_token_reads_it(look: Look, receiver: Callable[..., Receiver]) -> None:
    keyed = receiver(OTEL_VOICE_API_KEY=API_KEY, OTEL_VOICE_VIEWER_TOKEN="a-token-that-viewers-know")
    expect(call(look(keyed), "createSession").locator("h3")).to_be_visible()


def test_an_address_leads_to_its_call_and_a_link_to_its_schema(look: Look, receiving: Receiver) -> None:
    page = look(receiving, "/docs#postEvents")
    until(page, lambda: 0 <= top_of(page, "#postEvents") < 150, what="the call to be on top")
    call(page, "postEvents").get_by_role("link", name="Envelope").first.click()
    until(page, lambda: 0 <= top_of(page, "#schema-Envelope") < 150, what="the schema to be on top")
    assert page.url.endswith("/docs#schema-Envelope")
    page.go_back()
    until(page, lambda: 0 <= top_of(page, "#postEvents") < 150, what="the call again")


def test_the_filter_leaves_what_has_its_words_and_a_link_brings_back_the_rest(look: Look, receiving: Receiver) -> None:
    page = look(receiving)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("previous_session_id")
    expect(page.locator("article:visible")).to_have_count(3)
    expect(page.locator("#contents li:visible")).to_have_count(3)
    expect(page.locator("#total")).to_have_text("1 call, 2 schemas")
    page.evaluate("location.hash = '#healthz'")
    expect(call(page, "healthz")).to_be_focused()
    expect(page.get_by_role("searchbox")).to_have_value("")
    page.get_by_role("searchbox").fill("nothing of the kind")
    expect(page.locator("#nothing")).to_be_visible()
    expect(page.locator("article:visible")).to_have_count(0)


def test_an_example_is_copied_and_does_what_it_says(
    look: Look, receiving: Receiver, context: BrowserContext, tmp_path: Path
) -> None:
    curl = shutil.which("curl") or pytest.skip("no curl here")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = look(receiving)
    example = call(page, "createSession").locator(".example")
    example.get_by_role("button").click()
    expect(example.get_by_role("button")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == example.locator("pre").text_content()
    env = {"PATH": f"{Path(curl).parent}:{os.environ['PATH']}", "OTEL_VOICE_API_KEY": ""}
    run = subprocess.run(["sh", "-c", command], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.search(r'"session_id":"[0-9a-f-]{36}"', run.stdout), run.stdout


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_narrow_screen(look: Look, receiving: Receiver, width: int) -> None:
    page = look(receiving, width=width, height=844)
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    contents = page.locator("#contents")
    expect(contents.get_by_role("navigation")).to_be_hidden()
    contents.locator("summary").click()
    contents.get_by_role("link", name="POST /v1/view", exact=True).click()
    until(page, lambda: 0 <= top_of(page, "#viewRecording") < 150, what="the call to be on top")


def test_without_an_answer_it_says_so(look: Look, receiving: Receiver, context: BrowserContext) -> None:
    context.route("**/openapi.json", lambda route: route.fulfill(status=204))
    page = look(receiving)
    expect(page.get_by_role("alert")).to_contain_text("The reference cannot be shown")


def test_the_list_of_sessions_leads_there(look: Look, receiving: Receiver) -> None:
    page = look(receiving, "/")
    page.get_by_role("link", name="API").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("API")


def test_the_pure_part_behaves() -> None:
    node = shutil.which("node") or pytest.skip("no Node.js here")
    run = subprocess.run([node, "--test", *PURE], cwd=HERE / "pages", capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
