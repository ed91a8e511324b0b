"""The faults of tests/faults.py in their short form (`python -m benchmarks.faults`: the long one), and the oracle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_voice.spans import root_id, span_id
from tests.components.build import COLLECTOR
from tests.conftest import binary_of
from tests.faults import FAULTS, Absent, Row, Stage
from tests.oracle import Book, Call, audit
from tests.real import LangfuseServer

SHORT = {fault.name: fault for fault in FAULTS}


@pytest.fixture
def outcome(tmp_path: Path, keep: Callable[[Any], Any]) -> Callable[[str], Row]:
    """`outcome(name)` is the row of that fault. What it needs and is not here skips the test, which with CI=true is a
    failure."""

    def outcome(name: str) -> Row:
        fault = SHORT[name]
        if fault.components:
            binary_of(COLLECTOR)
        try:
            with Stage(tmp_path, keep) as stage:
                return fault.run(stage, **fault.short)
        except Absent as absent:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI has to test this: {absent}", pytrace=False)
            pytest.skip(str(absent))

    return outcome


def assert_holds(row: Row) -> None:
    assert (row.missing, row.wrong) == (0, 0), row
    assert row.holds, row


@pytest.mark.components
def test_an_outage_of_the_next_hop_loses_nothing_and_costs_no_memory(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("down"))


def test_a_receiver_that_is_killed_again_and_again_keeps_what_it_accepted(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("killed"))


def test_a_receiver_that_is_killed_with_a_backlog_is_ready_soon_and_delivers_it(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("backlog"))


@pytest.mark.components
def test_a_collector_that_is_killed_while_the_backend_is_down_keeps_what_it_took(
    outcome: Callable[[str], Row],
) -> None:
    assert_holds(outcome("collector"))


def test_SIGTERM_while_the_next_hop_refuses_connections_ends_in_time_and_loses_nothing(
    outcome: Callable[[str], Row],
) -> None:
    assert_holds(outcome("sigterm"))


def test_SIGTERM_while_the_next_hop_is_silent_ends_in_time_and_loses_nothing(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("sigterm-silent"))


def test_a_full_disk_is_told_by_503_and_over_when_there_is_room_again(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("full"))


def test_a_failing_disk_is_told_by_503_and_over_when_it_works_again(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("disk"))


def test_whatever_the_next_hop_answers_each_span_is_delivered_or_set_aside_with_the_reason(
    outcome: Callable[[str], Row],
) -> None:
    assert_holds(outcome("answers"))


def test_a_slow_or_silent_or_dripping_next_hop_slows_no_page_down(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("slow"))


def test_what_was_accepted_in_an_overload_arrives(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("overload"))


def test_hostile_bodies_are_refused_and_harm_no_neighbour(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("hostile"))


def test_duplicates_in_any_order_and_unread_answers_make_each_span_once(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("order"))


@pytest.mark.components
def test_what_the_collector_dropped_for_good_arrives_by_a_resend(outcome: Callable[[str], Row]) -> None:
    assert_holds(outcome("dropped"))


# The oracle itself

CALL = Call("0198c3f1-0000-7000-8000-000000000001", "token", "page")
START = {"type": "turn_start", "turn_id": "t1", "seq": 0, "ts": 1_700_000_000_000}
TURN = {
    "trace_id": bytes.fromhex(CALL.trace),
    "span_id": bytes.fromhex(span_id(CALL.trace, "turn", "t1")),
    "parent_span_id": bytes.fromhex(root_id(CALL.trace)),
    "start_time_unix_nano": 1_700_000_000_000_000_000,
}


def send(backend: LangfuseServer, **fields: Any) -> None:
    scopes = [ScopeSpans(spans=[Span(**{**TURN, **fields})])]
    export = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=scopes)])
    httpx.post(
        f"{backend.base_url}/api/public/otel/v1/traces",
        content=export.SerializeToString(),
        auth=(backend.public_key, backend.secret_key),
        headers={"x-langfuse-ingestion-version": "4"},
    )


def counted(backend: LangfuseServer) -> tuple[int, int, int]:
    """What the oracle says of one accepted turn_start: missing, wrong, duplicates."""
    result = audit(backend, Book(issued=1, obligations=[CALL.obligation(START)]), deadline_s=0)
    return result.missing, result.wrong, result.duplicates


def test_the_oracle_counts_a_span_that_did_not_come_as_missing(langfuse_server: LangfuseServer) -> None:
    assert counted(langfuse_server) == (1, 0, 0)


def test_the_oracle_counts_a_span_that_was_refused_as_missing(langfuse_server: LangfuseServer) -> None:
    langfuse_server.answer_next(503)
    send(langfuse_server)
    assert counted(langfuse_server) == (1, 0, 0)


def test_the_oracle_counts_identical_copies_as_duplicates(langfuse_server: LangfuseServer) -> None:
    send(langfuse_server)
    assert counted(langfuse_server) == (0, 0, 0)
    send(langfuse_server)
    assert counted(langfuse_server) == (0, 0, 1)


def test_the_oracle_counts_a_copy_that_differs_as_wrong(langfuse_server: LangfuseServer) -> None:
    send(langfuse_server)
    send(langfuse_server, name="another")
    assert counted(langfuse_server) == (0, 1, 1)


@pytest.mark.parametrize("fields", [{"parent_span_id": bytes(8)}, {"start_time_unix_nano": 1}])
def test_the_oracle_counts_a_wrong_parent_or_start_as_wrong(
    langfuse_server: LangfuseServer, fields: dict[str, Any]
) -> None:
    send(langfuse_server, **fields)
    assert counted(langfuse_server) == (0, 1, 0)


def test_the_oracle_reads_words_and_counts(langfuse_server: LangfuseServer) -> None:
    complete = {"type": "turn_complete", "turn_id": "t1", "user_text": "ask t1 now", "seq": 1, "ts": 1}
    end = {"type": "session_end", "last_seq": 2}
    book = Book(issued=2, obligations=[CALL.obligation(complete), CALL.obligation(end)])
    send(langfuse_server)
    send(langfuse_server, span_id=TURN["parent_span_id"], parent_span_id=b"")
    faults = audit(langfuse_server, book, deadline_s=0).first_faults
    assert [fault.partition(": ")[2] for fault in faults] == [
        "'ask t1 now' is not in it",
        "it counts None events received and None lost, not 3 and 0",
    ]
