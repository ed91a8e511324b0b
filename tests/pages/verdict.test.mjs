import assert from "node:assert/strict";
import { test } from "node:test";

import { verdictOf } from "../../otel_voice/pages/verdict.js";
import { call, event, turn } from "./spans.mjs";

const sentence = (given) =>
  verdictOf(given)
    .map(({ text }) => text)
    .join(" ");

const slow = turn(7, 20_000, 29_000, {
  user: [20_000, 21_000],
  agent: [24_200, 29_000],
  responses: [
    [21_010, null, 21_500],
    [23_600, 24_000, 26_000, "Sunny."],
  ],
  tools: [["get_weather", 21_480, 23_500]],
  latency: 3200,
});
const cut = (number, start) =>
  turn(number, start, start + 5000, {
    user: [start, start + 1000],
    agent: [start + 1500, start + 5000],
    latency: 500,
    "voice.interruption.source": "user_speech",
  });

test("the sentence of the issue", () => {
  const found = call([slow, cut(8, 30_000), cut(9, 40_000)], { end: 180_000, summary: { events_lost: 1 } });
  assert.equal(
    sentence(found),
    "Ended by the user after 3 min. Slowest answer: turn 7, 3.2 s, most of it get_weather. Interrupted twice. 1 event lost.",
  );
});

test("each part says where it is to be seen", () => {
  const found = call([slow, cut(8, 30_000)], { summary: { events_lost: 2 } });
  const [seventh, eighth] = found.turns;
  assert.deepEqual(
    verdictOf(found).map(({ to }) => to),
    ["end", seventh.id, eighth.id, "facts"],
  );
});

test("a running call, one without any latency, one without turns", () => {
  const running = { status: "open", end_reason: null, duration_ms: 65_000 };
  assert.equal(
    sentence(call([turn(1, 0, 900)], { summary: running })),
    "Running for 1 min. No answer's latency was measured.",
  );
  assert.equal(sentence(call([], { end: 4000 })), "Ended by the user after 4 s.");
});

test("an end reason that nobody here knows is told as it is", () => {
  assert.equal(sentence(call([], { end: 4000, summary: { end_reason: "taxi_came" } })), "Ended (taxi_came) after 4 s.");
  assert.equal(
    sentence(call([], { end: 4000, summary: { end_reason: "constructor" } })),
    "Ended (constructor) after 4 s.",
  );
});

test("failures have their names while there is one, and a number after", () => {
  const tools = (...states) =>
    turn(1, 0, 9000, { tools: states.map((state, place) => [`tool${place}`, place * 100, place * 100 + 50, state]) });
  const rest = (found) => sentence(found).split("measured. ")[1];
  assert.equal(rest(call([tools("tool_error", "cancelled")])), "tool0 failed. tool1 was cancelled.");
  assert.equal(
    rest(call([tools("tool_error", "tool_error", "cancelled", "cancelled")])),
    "2 tool calls failed. 2 tool calls were cancelled.",
  );
  const apart = [event("error", 100, { status: "ERROR", status_message: "network" })];
  assert.match(sentence(call([], { apart })), /1 error\.$/);
});
