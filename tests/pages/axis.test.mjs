import assert from "node:assert/strict";
import { test } from "node:test";

import {
  blocksOf,
  clamped,
  isWhole,
  panned,
  percent,
  showing,
  stack,
  ticks,
  zoomed,
} from "../../otel_voice/pages/axis.js";
import { pointsOf, tracksOf } from "../../otel_voice/pages/tracks.js";
import { call, event, turn } from "./spans.mjs";

const range = { start: 1000, end: 101_000 };

test("a view stays within the call and never gets closer than one can look", () => {
  assert.deepEqual(clamped({ start: -500, end: 500 }, range), { start: 1000, end: 2000 });
  assert.deepEqual(clamped({ start: 100_500, end: 101_500 }, range), { start: 100_000, end: 101_000 });
  assert.deepEqual(clamped({ start: 0, end: 1e9 }, range), range);
  assert.equal(clamped({ start: 5000, end: 5001 }, range).end - 5000, 200);
});

test("zooming keeps the moment under the pointer where it is", () => {
  const view = { start: 11_000, end: 21_000 };
  const closer = zoomed(view, 2, 13_000, range);
  assert.equal(closer.end - closer.start, 5000);
  assert.equal(percent(13_000, closer), percent(13_000, view));
  assert.ok(isWhole(zoomed(view, 1e-9, 13_000, range), range));
});

test("panning moves by so much and stops at the ends", () => {
  assert.deepEqual(panned({ start: 11_000, end: 21_000 }, 5000, range), { start: 16_000, end: 26_000 });
  assert.deepEqual(panned({ start: 11_000, end: 21_000 }, -1e9, range), { start: 1000, end: 11_000 });
});

test("what is shown comes into view, and is large enough to be seen", () => {
  const whole = showing(range, { start: 50_000, end: 55_000 }, range, 800);
  assert.deepEqual(whole, range);
  const view = { start: 1000, end: 11_000 };
  const moved = showing(view, { start: 50_000, end: 55_000 }, range, 800);
  assert.ok(moved.start <= 50_000 && moved.end >= 55_000);
  const small = showing(range, { start: 50_000, end: 50_500 }, range, 800);
  assert.ok(small.end - small.start < 20_000);
});

test("ticks are round, labelled as exactly as they need, and not too many", () => {
  const { moments, digits } = ticks({ start: 1000, end: 101_000 }, 1000, 800);
  assert.equal(digits, 0);
  assert.ok(moments.every((t) => (t - 1000) % 15_000 === 0));
  assert.ok(moments.length < 30);
  assert.equal(ticks({ start: 1000, end: 1200 }, 1000, 800).digits, 2);
});

test("what runs at the same time has rows of its own", () => {
  const { items, rows } = stack(
    [
      { start: 0, end: 10 },
      { start: 5, end: 8 },
      { start: 10, end: 12 },
    ],
    3,
  );
  assert.deepEqual(
    items.map(({ row }) => row),
    [0, 1, 0],
  );
  assert.equal(rows, 2);
  assert.equal(
    stack(
      Array.from({ length: 9 }, () => ({ start: 0, end: 1 })),
      3,
    ).rows,
    3,
  );
});

test("only what is around the view is drawn", () => {
  const items = Array.from({ length: 1000 }, (_, place) => ({
    id: place,
    start: place * 1000,
    end: place * 1000 + 900,
    row: 0,
  }));
  const blocks = blocksOf(items, { start: 500_000, end: 510_000 }, 800);
  assert.ok(blocks.length >= 10 && blocks.length < 25);
});

test("what nobody could tell apart is one block", () => {
  const items = Array.from({ length: 10_000 }, (_, place) => ({
    id: place,
    start: place * 10,
    end: place * 10 + 9,
    row: 0,
    failed: place === 5000,
  }));
  const blocks = blocksOf(items, { start: 0, end: 100_000 }, 800);
  assert.ok(blocks.length <= 400);
  assert.equal(
    blocks.reduce((sum, { count }) => sum + count, 0),
    10_000,
  );
  assert.equal(blocks.filter(({ failed }) => failed).length, 1);
});

test("a block that reaches far outside is cut", () => {
  const [block] = blocksOf([{ start: 0, end: 1e9, row: 0 }], { start: 5e8, end: 5e8 + 1000 }, 800);
  assert.ok(block.left >= -100 && block.width <= 300);
});

test("a call's lanes are user, agent, model, tools and the session", () => {
  const given = turn(1, 0, 5000, {
    user: [0, 1000],
    agent: [2000, 5000],
    responses: [[1100, 1800, 3000, "Hello."]],
    tools: [["a", 1200, 1500]],
    latency: 1000,
  });
  const lanes = tracksOf(call([given]));
  assert.deepEqual(
    lanes.map(({ key, items }) => [key, items.length]),
    [
      ["user", 1],
      ["agent", 1],
      ["model", 1],
      ["tools", 1],
      ["connection", 1],
    ],
  );
});

test("an answer whose playing nobody measured is told as such", () => {
  const given = turn(1, 0, 5000, { responses: [[1100, 1800, 3000, "Hello."]] });
  const agent = tracksOf(call([given])).find(({ key }) => key === "agent");
  assert.deepEqual(
    agent.items.map(({ kind }) => kind),
    ["unmeasured"],
  );
});

test("errors, marks and the end are points", () => {
  const apart = [event("page hidden", 500), event("error", 900, { status: "ERROR", status_message: "network" })];
  assert.deepEqual(
    pointsOf(call([], { apart })).map(({ kind }) => kind),
    ["mark", "error", "end"],
  );
});
