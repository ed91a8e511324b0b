import assert from "node:assert/strict";
import { test } from "node:test";

import { latencyOf, mostOf, NAMES } from "../../otel_voice/pages/latency.js";
import { call, START, turn } from "./spans.mjs";

const partsOf = (...given) => {
  const [only] = call([turn(...given)]).turns;
  return latencyOf(only);
};
const shown = ({ parts }) => parts.map(({ name, ms }) => [name, Math.round(ms)]);

function addsUp({ start, end, total, parts }) {
  assert.equal(parts[0].start, start);
  assert.equal(parts.at(-1).end, end);
  for (let place = 1; place < parts.length; place++) assert.equal(parts[place].start, parts[place - 1].end);
  assert.ok(Math.abs(parts.reduce((sum, { ms }) => sum + ms, 0) - total) < 0.01);
  assert.ok(parts.every(({ ms }) => ms > 0));
}

test("an answer is split at the response's begin, its first output and the moment it is audible", () => {
  const latency = partsOf(1, 0, 5000, {
    user: [0, 1000],
    agent: [2000, 5000],
    responses: [[1200, 1700, 3000, "Hello."]],
    latency: 1000,
  });
  assert.deepEqual(shown(latency), [
    [NAMES.begin, 200],
    [NAMES.model, 500],
    [NAMES.playback, 300],
  ]);
  assert.equal(latency.measured, true);
  addsUp(latency);
});

test("a tool round has the tool and both responses", () => {
  const latency = partsOf(1, 0, 9000, {
    user: [0, 1000],
    agent: [4500, 9000],
    responses: [
      [1010, null, 1500],
      [3600, 4200, 6000, "Sunny."],
    ],
    tools: [["get_weather", 1480, 3500]],
    latency: 3500,
  });
  assert.deepEqual(shown(latency), [
    [NAMES.begin, 10],
    [NAMES.model, 470],
    ["get_weather", 2020],
    [NAMES.begin, 100],
    [NAMES.model, 600],
    [NAMES.playback, 300],
  ]);
  assert.equal(mostOf(latency), "get_weather");
  addsUp(latency);
});

test("a response that goes on through its tools, as Gemini's does", () => {
  const latency = partsOf(1, 0, 8000, {
    user: [0, 1000],
    responses: [[1000, 4500, 8000, "Fourteen."]],
    tools: [["find_stock", 1600, 4000]],
    latency: 3500,
  });
  assert.deepEqual(shown(latency), [
    [NAMES.model, 600],
    ["find_stock", 2400],
    [NAMES.model, 500],
  ]);
  assert.equal(latency.measured, false);
  addsUp(latency);
});

test("parallel tools are one part while both run", () => {
  const latency = partsOf(1, 0, 8000, {
    user: [0, 1000],
    responses: [[1000, 3000, 5000, "Done."]],
    tools: [
      ["a", 1500, 2000],
      ["b", 1500, 2500],
    ],
    latency: 2000,
  });
  assert.deepEqual(shown(latency), [
    [NAMES.model, 500],
    ["a + b", 500],
    ["b", 500],
    [NAMES.model, 500],
  ]);
  addsUp(latency);
});

test("what nobody measured is unknown", () => {
  const nothing = partsOf(1, 0, 5000, { user: [0, 1000], agent: [2000, 5000], latency: 1000 });
  assert.deepEqual(shown(nothing), [[NAMES.unknown, 1000]]);
  const noOutput = partsOf(1, 0, 5000, {
    user: [0, 1000],
    agent: [2000, 5000],
    responses: [[1200, null, 5000]],
    latency: 1000,
  });
  assert.deepEqual(shown(noOutput), [
    [NAMES.begin, 200],
    [NAMES.unknown, 800],
  ]);
  for (const latency of [nothing, noOutput]) addsUp(latency);
  assert.equal(partsOf(1, 0, 5000, { user: [0, 1000] }), null);
});

test("whatever is in a turn, the parts are disjoint and add up", () => {
  let seed = 7;
  const random = (most) => (seed = (seed * 48271) % 2147483647) % most;
  for (let trial = 0; trial < 500; trial++) {
    const interval = () => {
      const from = random(6000);
      return [from, from + random(3000)];
    };
    const responses = Array.from({ length: random(4) }, () => {
      const [from, to] = interval();
      return [from, random(3) ? from + random(to - from + 1) : null, to, "x"];
    });
    const tools = Array.from({ length: random(4) }, (_, place) => [`tool${place}`, ...interval()]);
    const latency = 1 + random(5000);
    const agent = random(2) ? [5500, 7000] : undefined;
    const found = partsOf(1, 0, 9000, { user: [0, 500], agent, responses, tools, latency });
    if (found) addsUp(found);
  }
});

test("times are the call's", () => {
  const { start, end } = partsOf(1, 0, 5000, { user: [0, 1000], agent: [2000, 5000], latency: 1000 });
  assert.deepEqual([start - START, end - START], [1000, 2000]);
});
