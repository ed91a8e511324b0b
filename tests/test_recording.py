"""Recordings become the events of a page: numbered, stamped, reduced; and one recording always makes one trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otel_voice import events as e
from otel_voice.adapters.allow import Provider
from otel_voice.recording import BASE_MS, FRAME_MS, BadRecording, Recording
from tests.facts import everything

T0 = 1_790_000_000_000.0


def recording(tmp_path: Path, *lines: dict[str, Any]) -> Recording:
    path = tmp_path / "call.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return Recording(path, "gemini-live")


def said(text: str, **fields: Any) -> dict[str, Any]:
    message = {"serverContent": {"outputTranscription": {"text": text}}}
    return {"dir": "received", "message": message, **fields}


def times(recording: Recording) -> list[float | None]:
    return [event.ts for event in recording.events]


def test_times_are_kept_as_they_were_recorded(tmp_path: Path) -> None:
    assert times(recording(tmp_path, said("a", ts=T0), said("b", ts=T0 + 1234.5))) == [T0, T0 + 1234.5]


def test_times_that_count_from_0_are_moved_into_this_century(tmp_path: Path) -> None:
    assert times(recording(tmp_path, said("a", ts=0), said("b", ts=250))) == [BASE_MS, BASE_MS + 250]


def test_frames_without_times_are_told_one_after_the_other(tmp_path: Path) -> None:
    first, second, third = times(recording(tmp_path, said("a"), said("b"), said("c")))
    assert (second, third) == ((first or 0) + FRAME_MS, (first or 0) + 2 * FRAME_MS)


def test_events_are_numbered_from_0_without_a_gap_though_frames_are_left_out(tmp_path: Path) -> None:
    silence = {"dir": "sent", "message": {"unheardOf": {}}}
    found = recording(tmp_path, said("a"), silence, silence, said("b"))
    assert [event.seq for event in found.events] == [0, 1]


def test_a_moved_recording_keeps_its_durations(tmp_path: Path) -> None:
    moved = recording(tmp_path, said("a", ts=T0), said("b", ts=T0 + 1500)).moved_to(2 * T0)
    assert [event.ts for event in moved] == [2 * T0, 2 * T0 + 1500]


def test_empty_lines_and_foreign_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    path.write_bytes(b"\r\n".join([json.dumps(said("a")).encode(), b"", json.dumps(said("b")).encode(), b""]))
    assert len(Recording(path, "gemini-live").events) == 2


def test_a_file_of_another_provider_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "call.jsonl"
    path.write_text(json.dumps(said("a")))
    with pytest.raises(BadRecording, match="openai-realtime"):
        Recording(path, "openai-realtime")


@pytest.mark.parametrize(("provider", "path"), everything(), ids=lambda value: getattr(value, "stem", value))
def test_every_recording_is_one_trace_with_one_root_that_spans_it(provider: Provider, path: Path) -> None:
    spans = Recording(path, provider).session().take()
    (root,) = [span for span in spans if not span.parent_span_id]
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_span_id in ids for span in spans if span is not root)
    assert all(root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    assert spans == Recording(path, provider).session().take()


@pytest.mark.parametrize(("provider", "path"), everything(), ids=lambda value: getattr(value, "stem", value))
def test_what_a_page_posts_of_a_recording_is_taken_by_the_contract(provider: Provider, path: Path) -> None:
    for event in Recording(path, provider).events:
        assert e.decode_event(e.encode(event)) == event
