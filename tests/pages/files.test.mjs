import assert from "node:assert/strict";
import { test } from "node:test";

import { eventsBehind, eventsOf, turnIdOf } from "../../otel_voice/pages/evidence.js";
import { callOf } from "../../otel_voice/pages/call.js";
import { grown } from "../../otel_voice/pages/grown.js";
import { isOtlp, lookedAt } from "../../otel_voice/pages/otlp.js";

const value = (given) => {
  if (typeof given === "string") return { stringValue: given };
  if (typeof given === "boolean") return { boolValue: given };
  if (Array.isArray(given)) return { arrayValue: { values: given.map(value) } };
  return Number.isInteger(given) ? { intValue: String(given) } : { doubleValue: given };
};
const attributes = (given) => Object.entries(given).map(([key, each]) => ({ key, value: value(each) }));

function otlp(name, parentSpanId, given, rest = {}) {
  return {
    traceId: "ab",
    spanId: name.slice(0, 2),
    parentSpanId,
    name,
    kind: "SPAN_KIND_INTERNAL",
    startTimeUnixNano: "1790000000000000000",
    endTimeUnixNano: "1790000060000000000",
    attributes: attributes(given),
    ...rest,
  };
}

const ROOT = otlp("voice_session", "", {
  "session.id": "s1",
  "voice.turn.count": 1,
  "voice.user_bot_latency.p50": 0.5,
  "gen_ai.usage.input_tokens": 12,
  "voice.session.end_reason": "user_hangup",
  tags: ["a", "b"],
});
const TURN = otlp(
  "invoke_agent",
  "vo",
  { "gen_ai.operation.name": "invoke_agent", "voice.turn.number": 1 },
  { status: { code: "STATUS_CODE_ERROR", message: "no" } },
);
const document = (...spans) => JSON.stringify({ resourceSpans: [{ scopeSpans: [{ spans }] }] });

test("OTLP JSON is looked at as a session is", () => {
  const looked = lookedAt(document(ROOT, TURN));
  assert.equal(looked.session_id, "s1");
  assert.deepEqual(looked.spans[0].attributes.tags, ["a", "b"]);
  assert.equal(looked.spans[1].status, "ERROR");
  assert.equal(looked.spans[1].status_message, "no");
  const { summary } = looked;
  assert.deepEqual(
    [summary.turn_count, summary.duration_ms, summary.user_bot_latency_ms.p50, summary.tokens],
    [1, 60_000, 500, { input_tokens: 12 }],
  );
  assert.equal(callOf(looked).turns.length, 1);
});

test("a document a line, as the collector's file exporter writes them", () => {
  assert.equal(lookedAt(`${document(ROOT)}\n${document(TURN)}\n`).spans.length, 2);
});

test("what is no session says so", () => {
  assert.throws(() => lookedAt(document(TURN)), /no voice session/);
  assert.throws(() => lookedAt("hello"), /no JSON/);
  assert.ok(isOtlp(document(ROOT)));
  assert.ok(!isOtlp('{"dir":"sent","message":{}}'));
});

test("a recording that is cut off has the lines before", () => {
  assert.deepEqual(eventsOf('{"a":1}\n\n{"b":2}\n{"c":'), [{ a: 1 }, { b: 2 }]);
});

const row = (kind, start, end, given = {}) => ({ kind, start, end, attributes: given });

test("behind a tool are the events that name its call, wherever they lie", () => {
  const events = [
    { type: "mark", ts: 150 },
    { type: "tool_call", call_id: "c1", ts: 100 },
    { type: "provider_message", message: { toolResponse: { functionResponses: [{ id: "c1" }] } }, ts: 900 },
    { type: "provider_message", message: { toolCall: { functionCalls: [{ id: "c10" }] } }, ts: 150 },
  ];
  assert.deepEqual(eventsBehind(row("tool", 100, 200, { "gen_ai.tool.call.id": "c1" }), events), [
    events[1],
    events[2],
  ]);
});

test("behind a turn are those of its time and those that name it; behind the session all", () => {
  const events = [{ ts: 50 }, { ts: 150 }, { ts: 900, turn_id: "t1" }];
  assert.deepEqual(eventsBehind(row("turn", 100, 200), events, "t1"), [events[1], events[2]]);
  assert.equal(eventsBehind(row("session", 0, 10), events).length, 3);
});

test("a turn's name is found by its span's id", async () => {
  // SHA-256 of "ab/turn/t1", its first 8 bytes.
  const { createHash } = await import("node:crypto");
  const id = createHash("sha256").update("ab/turn/t1").digest("hex").slice(0, 16);
  const turn = { kind: "turn", id, span: { trace_id: "ab" } };
  assert.equal(await turnIdOf(turn, [{ turn_id: "t0" }, { turn_id: "t1" }, {}]), "t1");
  assert.equal(await turnIdOf(turn, [{ turn_id: "t0" }]), null);
});

test("a live session keeps its final spans and has the open ones told anew", () => {
  const span = (span_id, open) => ({ span_id, open });
  const before = {
    summary: { turn_count: 1 },
    links: { jaeger: "x" },
    spans: [span("a", false), span("b", true), span("c", true)],
  };
  const [kept] = before.spans;
  const after = grown(before, {
    summary: { turn_count: 2 },
    spans: [span("a", false), span("b", false)],
    open: [span("d", true)],
  });
  assert.deepEqual(
    after.spans.map(({ span_id, open }) => [span_id, open]),
    [
      ["a", false],
      ["b", false],
      ["d", true],
    ],
  );
  assert.equal(after.spans[0], kept);
  assert.deepEqual([after.summary.turn_count, after.links.jaeger], [2, "x"]);
});
