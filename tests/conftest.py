"""Fixtures that start the real parts. `make components` builds or installs what they need."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from tests.browsing import Chromium, Own, Site
from tests.components.browser import CHROMIUM, PACKAGES
from tests.components.build import COLLECTOR, JAEGER_BINARY
from tests.real import Collector, Jaeger, LangfuseServer, Program, Receiver

# A machine that does much else at the time is no defect of ours.
expect.set_options(timeout=20_000)

Started = TypeVar("Started", bound=Program)

_programs = pytest.StashKey[list[Program]]()


class Part(Protocol):
    def find(self) -> Path | None: ...

    @property
    def how_to_get(self) -> str: ...


def binary_of(component: Part) -> Path:
    """Where the component is. Without it the test is skipped, which with CI=true is a failure."""
    if found := component.find():
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has to test against the real parts: {component.how_to_get}", pytrace=False)
    pytest.skip(component.how_to_get)


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Iterator[Callable[[Started], Started]]:
    """Notes a started program: its log is attached when the test fails, and it is killed at the end."""
    programs = request.node.stash.setdefault(_programs, [])

    def keep(program: Started) -> Started:
        programs.append(program)
        return program

    yield keep
    for program in reversed(programs):
        program.kill()


@pytest.fixture
def collector(tmp_path: Path, keep: Callable[[Collector], Collector]) -> Callable[..., Collector]:
    """`collector(**env)` starts one; started again in the same test, it takes over the first one's storage."""
    binary = binary_of(COLLECTOR)
    return lambda **env: keep(Collector(binary, tmp_path, env))


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    program = Jaeger(binary_of(JAEGER_BINARY), tmp_path_factory.mktemp("jaeger"))
    yield program
    program.kill()


@pytest.fixture
def langfuse_server() -> Iterator[LangfuseServer]:
    server = LangfuseServer()
    yield server
    server.close()


@pytest.fixture
def receiver(tmp_path: Path, keep: Callable[[Receiver], Receiver]) -> Callable[..., Receiver]:
    """`receiver(**env)` starts `otel-voice serve`; started again in a test, it takes over the first one's data."""
    return lambda port=0, **env: keep(Receiver(tmp_path / "data", tmp_path, env, port))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """For a module and no longer: its event loop runs in this thread, and async tests stand no other beside theirs."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    folder = tmp_path_factory.mktemp("chromium")
    program = Chromium(binary_of(CHROMIUM), folder / "profile", folder)
    yield program
    program.kill()


@pytest.fixture(scope="module")
def browser(chromium: Chromium, playwright: Playwright) -> Iterator[Browser]:
    browser = chromium.connect(playwright)
    yield browser
    browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile, in memory."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def own_browser(
    tmp_path: Path, playwright: Playwright, keep: Callable[[Chromium], Chromium]
) -> Iterator[Callable[..., Own]]:
    """`own_browser(*flags)` starts one on disk, to kill by `.program.kill()`; the next one takes over its profile."""
    opened: list[Browser] = []

    def start(*flags: str) -> Own:
        program = keep(Chromium(binary_of(CHROMIUM), tmp_path / "profile", tmp_path, *flags))
        opened.append(program.connect(playwright))
        return Own(program, opened[-1].contexts[0])

    yield start
    for browser in opened:
        browser.close()


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    """`site(receiving)` starts the app's own site beside a receiver; `wanted` are its sessions' fields."""
    sites: list[Site] = []

    def start(receiving: Receiver, **fields: object) -> Site:
        sites.append(Site(receiving.url, **fields))  # type: ignore[arg-type]
        return sites[-1]

    yield start
    for each in sites:
        each.close()


@pytest.fixture
def app(receiver: Callable[..., Receiver], site: Callable[..., Site]) -> Site:
    """The app's own site, beside a receiver of its own."""
    return site(receiver())


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What pages that were opened by `visit` did not catch; nothing at the end, or the test fails."""
    errors: list[str] = []
    yield errors
    assert not errors, "a page threw: " + "; ".join(errors)


@pytest.fixture
def visit(request: pytest.FixtureRequest, errors: list[str]) -> Callable[..., Page]:
    """`visit(site)` opens the app's page in a new tab, with `window.trace`; `path="/"` without one, `context` where."""

    def visit(site: Site, path: str = "/?trace", context: BrowserContext | None = None) -> Page:
        tab = (context or request.getfixturevalue("context")).new_page()
        tab.set_default_timeout(30_000)
        tab.on("pageerror", lambda error: errors.append(f"{error.name}: {error.message}"))
        tab.goto(site.url + path)
        tab.wait_for_function("window.ready")
        return tab

    return visit


@pytest.fixture
def packages() -> Path:
    """The npm packages' bundles, which the site serves at /packages/."""
    return binary_of(PACKAGES)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        shared = [value for value in item.funcargs.values() if isinstance(value, Program)]
        report.sections += [(f"log of {each.name}", each.log()) for each in item.stash.get(_programs, []) + shared]
    return report
