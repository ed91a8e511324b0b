"""Fixtures that start the real parts. `make components` builds the collector and Jaeger."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.components.build import COLLECTOR, JAEGER_BINARY, Component
from tests.real import Collector, Jaeger, LangfuseServer, Program, Receiver

Started = TypeVar("Started", bound=Program)

_programs = pytest.StashKey[list[Program]]()


def binary_of(component: Component) -> Path:
    """The component's binary. Without one the test is skipped, which with CI=true is a failure."""
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        shared = [value for value in item.funcargs.values() if isinstance(value, Program)]
        report.sections += [(f"log of {each.name}", each.log()) for each in item.stash.get(_programs, []) + shared]
    return report
