// The list's filters: address <-> values <-> what a reader sees.
import assert from "node:assert/strict";
import test from "node:test";

import { FILTERS, chipText, filtersOf, queryOf, shownIn, typedIn, withValues } from "../../otel_voice/pages/filters.js";

process.env.TZ = "Europe/Berlin";

const SOME = {
  q: "weather in Rome & <b>more</b>",
  status: "open",
  user: "u/17?#ü",
  from: "1795528560000",
  min_duration: "1500",
  min_turns: "3",
};

test("an address says the same filters that made it", () => {
  assert.deepEqual(filtersOf(queryOf(SOME)), SOME);
  const all = Object.fromEntries(FILTERS.map(({ name }, at) => [name, String(at + 1)]));
  assert.deepEqual(filtersOf(queryOf(all)), all);
});

test("no filter makes no query", () => {
  assert.equal(queryOf({}), "");
  assert.equal(queryOf({ q: "" }), "");
  assert.deepEqual(filtersOf(""), {});
});

test("what is no filter, or says nothing, is left out of an address", () => {
  assert.deepEqual(filtersOf("?min_turns=3&page=2&user=&q=%20&__proto__=1"), { min_turns: "3" });
});

test("filters are told in one order, whatever order they were set in", () => {
  assert.equal(queryOf({ min_turns: "3", q: "a" }), queryOf({ q: "a", min_turns: "3" }));
});

test("a request asks for a page besides", () => {
  assert.equal(queryOf({ user: "a b" }, { limit: 50, before: "17" }), "?user=a+b&limit=50&before=17");
});

test("an empty value takes a filter away, and the others stay", () => {
  assert.deepEqual(withValues({ user: "a", q: "b" }, { user: "", min_turns: "2" }), { q: "b", min_turns: "2" });
});

test("a duration is typed in seconds and asked for in ms", () => {
  assert.equal(typedIn("min_duration", "1.5"), "1500");
  assert.equal(shownIn("min_duration", "1500"), "1.5");
});

test("a moment is typed in the viewer's zone and asked for in ms", () => {
  assert.equal(typedIn("from", "2026-11-24T13:05"), String(Date.UTC(2026, 10, 24, 12, 5)));
  assert.equal(shownIn("from", String(Date.UTC(2026, 10, 24, 12, 5))), "2026-11-24T13:05");
  assert.equal(shownIn("to", String(Date.UTC(2026, 10, 24, 12, 5, 7))), "2026-11-24T13:05:07");
});

test("what a field shows and is typed again is the same value", () => {
  for (const [name, value] of Object.entries(SOME)) assert.equal(typedIn(name, shownIn(name, value)), value);
});

test("nonsense in an address is shown as far as a field can, and breaks nothing", () => {
  assert.equal(shownIn("from", "yesterday"), "");
  assert.equal(shownIn("from", "1e300"), "");
  assert.equal(shownIn("min_duration", "long"), "long");
  assert.equal(chipText("from", "yesterday"), "from yesterday");
  assert.equal(chipText("status", "asleep"), "status: asleep");
  assert.equal(chipText("status", "constructor"), "status: constructor");
});

test("a chip says what its filter asks for", () => {
  assert.equal(chipText("min_turns", "3"), "turns ≥ 3");
  assert.equal(chipText("min_duration", "90000"), "duration ≥ 90 s");
  assert.equal(chipText("min_p95", "800"), "p95 ≥ 800 ms");
  assert.equal(chipText("status", "open"), "status: live");
  assert.equal(chipText("user", "<b>"), "user: <b>");
  assert.equal(chipText("to", String(Date.UTC(2026, 10, 24, 12, 5))), "to 2026-11-24 13:05");
});
