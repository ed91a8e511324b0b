import assert from "node:assert/strict";
import { test } from "node:test";

import { paceOf, splitAt, wordsIn } from "../../otel_voice/pages/heard.js";
import { textOf } from "../../otel_voice/pages/call.js";
import { freeOf } from "../../otel_voice/pages/silence.js";
import { call, event, START, turn } from "./spans.mjs";

const INTERRUPTED = { "voice.interruption.source": "user_speech" };
const seconds = ({ start, end, kind }) => [kind, (start - START) / 1000, (end - START) / 1000];

test("a turn has its words, speech, responses and tools", () => {
  const [only] = call([
    turn(1, 0, 5000, {
      user: [0, 1000],
      agent: [2000, 5000],
      responses: [[1100, 1800, 3000, "Hello."]],
      tools: [["a", 1200, 1500]],
      latency: 1000,
    }),
  ]).turns;
  assert.equal(only.user, "Hello?");
  assert.deepEqual(
    only.pieces.map(({ kind }) => kind),
    ["user", "tool", "agent"],
  );
  assert.equal(only.answered, START + 2000);
  assert.deepEqual([only.tools.length, only.responses.length, only.userSpeech.length], [1, 1, 1]);
});

test("what the agent said before a tool stands before it", () => {
  const responses = [
    [1000, 1100, 1500, "One moment."],
    [3000, 3100, 4000, "It is sunny."],
  ];
  const [only] = call([
    turn(1, 0, 5000, { responses, tools: [["a", 1400, 2500]], said: ["?", "One moment. It is sunny."] }),
  ]).turns;
  assert.deepEqual(
    only.pieces.map(({ kind, text }) => text ?? kind),
    ["?", "One moment.", "tool", "It is sunny."],
  );
});

test("the words that a response does not have are the turn's", () => {
  const [only] = call([turn(1, 0, 5000, { responses: [[1000, 1100, 1500]], said: ["", "It is sunny."] })]).turns;
  assert.deepEqual(
    only.pieces.map(({ text }) => text),
    ["It is sunny."],
  );
});

test("turns are the same objects while nothing of them changes", () => {
  const spans = turn(1, 0, 5000, { user: [0, 1000] });
  const [first] = call([spans]).turns;
  assert.equal(call([spans]).turns[0], first);
  assert.notEqual(call([[...spans, { ...event("mark", 100), parent_span_id: spans[0].span_id }]]).turns[0], first);
});

test("of an answer that was cut off, the words after those heard are unheard, by the call's pace", () => {
  const words = "one two three four five six seven eight nine ten";
  const whole = turn(1, 0, 12_000, {
    user: [0, 1000],
    agent: [2000, 7000],
    responses: [[1100, 1900, 2500, words]],
    latency: 1000,
    said: ["?", words],
  });
  const cut = turn(2, 12_000, 16_000, {
    user: [12_000, 13_000],
    agent: [14_000, 15_500],
    responses: [[13_100, 13_900, 15_500, words]],
    latency: 1000,
    said: ["?", words],
    heard: 1500,
    ...INTERRUPTED,
  });
  const [, second] = call([whole, cut]).turns;
  const agent = second.pieces.at(-1);
  assert.deepEqual([agent.heard, agent.unheard], ["one two three ", "four five six seven eight nine ten"]);
});

test("where nobody measured how much was heard, nothing is unheard", () => {
  const [only] = call([turn(1, 0, 5000, { ...INTERRUPTED })]).turns;
  assert.ok(only.interrupted);
  assert.equal(only.pieces.at(-1).unheard, undefined);
});

test("nothing heard leaves nothing, all heard leaves all", () => {
  const unheard = (heard) =>
    call([turn(1, 0, 9000, { heard, said: ["?", "one two three"], ...INTERRUPTED })]).turns[0].pieces.at(-1).unheard;
  assert.equal(unheard(0), "one two three");
  assert.equal(unheard(8000), "");
});

test("words are counted in any language, and texts are cut between them", () => {
  assert.equal(wordsIn("It's twenty-four degrees, isn't it?"), 5);
  assert.ok(wordsIn("今日は天気がいいです") > 2);
  assert.deepEqual(splitAt("Oh, well. Yes", 2), ["Oh, well. ", "Yes"]);
  assert.ok(paceOf([]) > 0);
});

test("a barge-in is where the user begins to speak", () => {
  const first = turn(1, 0, 8000, { user: [0, 1000], agent: [2000, 8000], latency: 1000, ...INTERRUPTED });
  const found = call([first, turn(2, 7900, 12_000, { user: [7900, 9000] })]).bargeIns;
  assert.deepEqual(
    found.map(({ t, source }) => [t - START, source]),
    [[7900, "user_speech"]],
  );
});

test("without measured speech a barge-in is where its answer stops", () => {
  const first = turn(1, 0, 8000, { user: [0, 1000], agent: [2000, 7800], latency: 1000, ...INTERRUPTED });
  assert.equal(call([first]).bargeIns[0].t, START + 7800);
});

test("dead air is the wait for the answer without what a tool takes, and long silence between turns", () => {
  const first = turn(1, 0, 8000, { user: [0, 1000], agent: [4000, 8000], tools: [["a", 2000, 3000]], latency: 3000 });
  const second = turn(2, 11_000, 14_000, { user: [11_000, 12_000], agent: [12_500, 14_000], latency: 500 });
  assert.deepEqual(call([first, second]).silences.map(seconds), [
    ["wait", 1, 2],
    ["wait", 3, 4],
    ["silence", 8, 11],
    ["wait", 12, 12.5],
  ]);
});

test("where nobody measured the playing or the user, no silence is told", () => {
  const unmeasured = turn(1, 0, 3000, { user: [0, 1000], responses: [[1000, 1500, 3000, "x"]], latency: 500 });
  const typed = turn(2, 20_000, 24_000, { agent: [21_000, 24_000] });
  const typedAgain = turn(3, 40_000, 44_000, { agent: [41_000, 44_000] });
  assert.deepEqual(call([unmeasured, typed, typedAgain]).silences.map(seconds), [["wait", 1, 1.5]]);
});

test("what is free is what is not busy", () => {
  assert.deepEqual(
    freeOf(
      [
        [2, 4],
        [3, 5],
        [9, 12],
      ],
      1,
      10,
    ),
    [
      [1, 2],
      [5, 9],
    ],
  );
  assert.deepEqual(freeOf([[0, 20]], 1, 10), []);
  assert.deepEqual(freeOf([], 1, 10), [[1, 10]]);
});

test("messages that are none are shown as they are", () => {
  assert.equal(textOf("[broken"), "[broken");
  assert.equal(textOf('[{"role":"user","parts":[{"type":"tool_call"},{"type":"text","content":"a"}]}]'), "a");
  assert.equal(textOf(undefined), "");
});

test("marks and tools of no turn stand apart", () => {
  const found = call([], { apart: [event("page hidden", 500)] });
  assert.deepEqual(
    found.apart.map(({ name }) => name),
    ["page hidden"],
  );
});
