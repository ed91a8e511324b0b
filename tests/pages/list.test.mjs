// The list's figures: a session's cells, and the server's bins as plots and tables.
import assert from "node:assert/strict";
import test from "node:test";

import * as bins from "../../otel_voice/pages/bins.js";
import { compact, latency, started } from "../../otel_voice/pages/figures.js";
import { cells } from "../../otel_voice/pages/row.js";

process.env.TZ = "Europe/Berlin";

const HOUR = 3_600_000;
const BEGIN = Date.UTC(2026, 10, 24, 12);
const SUMMARY = {
  session_id: "s",
  status: "ended",
  started_at: BEGIN,
  duration_ms: 192_000,
  end_reason: "user_hangup",
  user_id: "u-17",
  agent_name: "concierge",
  provider: "openai",
  model: "gpt-realtime",
  turn_count: 12,
  interruption_count: 2,
  tool_call_count: 5,
  tool_error_count: 1,
  user_bot_latency_ms: { p50: 755.4, p95: 1900, max: 3200 },
  tokens: { input_tokens: 8000, output_tokens: 4300, input_audio_tokens: 7000 },
  events_lost: 3,
};
const text = (parts) => parts.map(([said]) => said).join(" ");
const said = (more) => {
  const all = cells({ ...SUMMARY, ...more });
  return Object.fromEntries(Object.entries(all).map(([name, parts]) => [name, text(parts)]));
};

test("a row says what a session was", () => {
  assert.deepEqual(said({}), {
    user: "u-17",
    agent: "concierge gpt-realtime",
    duration: "3 min 12 s",
    turns: "12",
    interruptions: "2",
    tools: "5 1 error",
    p50: "755 ms",
    p95: "1.9 s",
    tokens: "12.3k",
    end: "user hangup",
    lost: "3",
  });
});

test("what nobody measured or named is a dash, and not a nought", () => {
  const row = said({ user_id: null, agent_name: null, model: null, provider: null, user_bot_latency_ms: { p50: null, p95: null }, tokens: {} });
  assert.deepEqual([row.user, row.agent, row.p50, row.p95, row.tokens], ["–", "–", "–", "–", "–"]);
  assert.equal(said({ tokens: { output_tokens: 0 } }).tokens, "0");
});

test("without a model its provider is named", () => {
  assert.equal(said({ model: null }).agent, "concierge openai");
  assert.equal(said({ agent_name: null }).agent, "gpt-realtime");
});

test("a session that goes on is marked, whatever else is known of it", () => {
  assert.deepEqual(cells({ ...SUMMARY, status: "open", end_reason: null }).end, [["live", "badge live"]]);
  assert.deepEqual(cells({ ...SUMMARY, status: "closing", end_reason: null }).end, [["ending", "badge"]]);
  assert.deepEqual(cells({ ...SUMMARY, status: "broken" }).end, [["could not be mapped", "badge bad"]]);
  assert.deepEqual(cells({ ...SUMMARY, end_reason: "error" }).end, [["error", "badge bad"]]);
});

test("a reason of an app's own, named like anything, is a plain badge", () => {
  assert.deepEqual(cells({ ...SUMMARY, end_reason: "constructor" }).end, [["constructor", "badge"]]);
});

test("counts are short when they are large", () => {
  assert.deepEqual([0, 999, 1000, 12_345, 999_949, 999_950, 4_000_000].map(compact), ["0", "999", "1k", "12.3k", "999.9k", "1M", "4M"]);
});

test("a latency is in ms or s", () => {
  assert.deepEqual([null, 0, 755.4, 1040, 61_000].map(latency), ["–", "0 ms", "755 ms", "1.0 s", "1 min 1 s"]);
});

test("a time names the year where it is not this one", () => {
  assert.ok(!started(BEGIN, BEGIN).includes("2026"));
  assert.ok(started(BEGIN, BEGIN + 400 * 24 * HOUR).includes("2026"));
});

test("bins over time become bars that begin where they begin", () => {
  const { data, range } = bins.overTime({ from: BEGIN, bin_ms: HOUR, counts: [2, 0, 5] });
  assert.deepEqual(data, [[BEGIN, BEGIN + HOUR, BEGIN + 2 * HOUR], [2, 0, 5]]);
  assert.deepEqual(range, [BEGIN, BEGIN + 3 * HOUR]);
});

test("latency bins become steps; what is empty at the end is left off", () => {
  const { data, range } = bins.latencies({ bin_ms: 100, p50: [0, 3, 1, 0, 0], p95: [0, 0, 2, 2, 0] });
  assert.deepEqual(data, [[0, 100, 200, 300, 400], [0, 3, 1, 0, 0], [0, 0, 2, 2, 0]]);
  assert.deepEqual(range, [0, 400]);
});

test("percentiles may have bins of different number", () => {
  const { data } = bins.latencies({ bin_ms: 100, p50: [1], p95: [0, 0, 1] });
  assert.deepEqual(data, [[0, 100, 200, 300], [1, 0, 0, 0], [0, 0, 1, 0]]);
});

test("nothing is no plot", () => {
  assert.equal(bins.overTime({ from: 0, bin_ms: HOUR, counts: [] }), null);
  assert.equal(bins.overTime({ from: 0, bin_ms: HOUR, counts: [0, 0] }), null);
  assert.equal(bins.latencies({ bin_ms: 100, p50: [], p95: [0] }), null);
});

test("a place on the axis is in one bin, or in none", () => {
  assert.equal(bins.binAt(BEGIN + 1.5 * HOUR, BEGIN, HOUR, 3), 1);
  assert.equal(bins.binAt(BEGIN - 1, BEGIN, HOUR, 3), null);
  assert.equal(bins.binAt(BEGIN + 3 * HOUR, BEGIN, HOUR, 3), null);
});

test("what is dragged over is widened to whole bins, and is one at least", () => {
  assert.deepEqual(bins.wholeBins([BEGIN + 10, BEGIN + HOUR + 10], BEGIN, HOUR), [BEGIN, BEGIN + 2 * HOUR]);
  assert.deepEqual(bins.wholeBins([BEGIN, BEGIN], BEGIN, HOUR), [BEGIN, BEGIN + HOUR]);
});

test("tables say what the plots draw, without the empty bins", () => {
  const rows = bins.overTimeRows({ from: BEGIN, bin_ms: HOUR, counts: [2, 0, 5] });
  assert.deepEqual(rows.map(([, count]) => count), [2, 5]);
  assert.ok(rows[0][0].includes("13:00") || rows[0][0].includes("01:00"), rows[0][0]);
  assert.deepEqual(bins.latencyRows({ bin_ms: 500, p50: [0, 3], p95: [0, 1, 0, 2] }), [
    ["500 ms to 1.0 s", 3, 1],
    ["1.5 s to 2.0 s", 0, 2],
  ]);
});

test("the axis of latency is in round figures", () => {
  assert.deepEqual(bins.latencyLabels([0, 500, 1000, 1500, 12_000]), ["0", "500 ms", "1 s", "1.5 s", "12 s"]);
});

test("a time axis names the day where one begins", () => {
  const midnight = Date.UTC(2026, 10, 24, 23);
  const labels = bins.timeLabels([midnight - 6 * HOUR, midnight, midnight + 6 * HOUR], 6 * HOUR);
  assert.ok(/24|25/.test(labels[1]) && !/:/.test(labels[1]), labels[1]);
  assert.ok(/:/.test(labels[0]) && /:/.test(labels[2]));
});
