"""Order: what waits is kept in the one order that its numbers and times give, whatever order it came in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_voice import events as e
from otel_voice.sources import REMEMBERED, Arrived, Numbers, Source, Told, Waiting

names = st.sampled_from(["a", "b"])
# Of one source: an event's number or none, its time, and how many are told before it comes.
events = st.lists(st.tuples(names, st.none() | st.integers(0, 12), st.integers(0, 20), st.integers(0, 2)), max_size=30)


def came(told: list[Told]) -> list[tuple[float, Arrived]]:
    return [(t, arrived) for t, _, _, _, arrived in told]


@given(events)
def test_the_order_that_is_kept_is_the_one_that_is_made_anew(given: list[tuple[str, int | None, int, int]]) -> None:
    sources = {"a": Source(), "b": Source()}
    waiting = Waiting(sources)
    for at, (name, seq, t, tell) in enumerate(given):
        for told_t, _, _, _, arrived in waiting.take(min(tell, len(waiting.order))):
            sources[arrived.source].tell(arrived.seq, told_t)
        if seq is None or sources[name].take(seq, 0):
            waiting.add(Arrived(name, seq, float(t), float(at), e.Mark(name="m"), "" if seq is not None else f"u{at}"))
        assert came(waiting.order) == came(waiting._in_order())


def test_a_source_whose_clock_jumps_back_keeps_its_order_and_waits_for_nobody_else() -> None:
    waiting = Waiting({"a": Source(), "b": Source()})
    for name, seq, t in (("a", 0, 10.0), ("b", 0, 7.0), ("a", 2, 11.0), ("a", 1, 5.0)):
        waiting.add(Arrived(name, seq, t, 0.0, e.Mark(name="m")))
    assert [(t, told.key) for t, told in came(waiting.order)] == [(7, "b:0"), (10, "a:0"), (10, "a:1"), (11, "a:2")]


@given(st.lists(st.integers(0, 30)))
def test_numbers_know_what_they_saw(seen: list[int]) -> None:
    numbers = Numbers()
    assert [numbers.add(number) for number in seen] == [number not in seen[:n] for n, number in enumerate(seen)]
    assert (numbers.count, numbers.top) == (len(set(seen)), max(seen, default=-1))
    assert [number in numbers for number in range(31)] == [number in seen for number in range(31)]


def test_another_event_under_a_recent_number_is_a_conflict_and_a_repetition_is_none() -> None:
    source = Source()
    for seq in (0, 1, 5, 3 + REMEMBERED):
        source.take(seq, 1_000 + seq)
    assert not source.take(5, 1_005)
    assert [source.conflicts(seq, 1_000 + seq) for seq in (5, 3 + REMEMBERED)] == [False, False]
    assert [source.conflicts(seq, 7) for seq in (5, 3 + REMEMBERED)] == [True, True]
    # Too long ago to tell.
    assert not source.conflicts(1, 7)


def test_a_late_number_does_not_take_the_place_of_a_recent_one() -> None:
    source = Source()
    for seq in [*range(44), *range(45, 301), 44]:
        assert source.take(seq, 1_000 + seq)
    assert not source.take(300, 1_300)
    assert not source.conflicts(300, 1_300)
    assert source.conflicts(300, 7)
