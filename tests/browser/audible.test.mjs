// What audible.js computes, without a sound: levels in slices, and where they begin and end.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Bounds, slices } from "../../otel_voice/browser/audible.js";

const QUIET = 0;
const LOUD = 0.1;

/** Feeds runs of [slices, RMS] from a time on and gives what came out. */
function heard(runs, { input = false, from = 0, bounds, said = [] } = {}) {
  bounds ??= new Bounds(
    input,
    from,
    (at) => said.push(["start", at]),
    (at, ms) => said.push(["end", at, ms]),
  );
  let at = from;
  for (const [count, rms] of runs) for (let i = 0; i < count; i++, at += 10) bounds.hear(at, rms);
  return { said, bounds, at };
}

test("a start is the first loud slice and an end the last one's end", () => {
  const { said } = heard([[10, QUIET], [50, LOUD], [40, QUIET]]);
  assert.deepEqual(said, [["start", 100], ["end", 600, 500]]);
});

test("an end is told once the pause has lasted 400 ms, and not before", () => {
  assert.equal(heard([[1, QUIET], [50, LOUD], [39, QUIET]]).said.length, 1);
  assert.equal(heard([[1, QUIET], [50, LOUD], [40, QUIET]]).said.length, 2);
});

test("a pause between words does not part speech", () => {
  const { said } = heard([[1, QUIET], [20, LOUD], [39, QUIET], [20, LOUD], [40, QUIET]]);
  assert.deepEqual(said, [["start", 10], ["end", 800, 790]]);
});

test("a user's pause may last 600 ms", () => {
  const { said } = heard([[1, 0.001], [20, LOUD], [59, 0.001], [20, LOUD], [60, 0.001]], { input: true });
  assert.deepEqual(said, [["start", 10], ["end", 1000, 990]]);
});

test("a click of one slice is no speech, two loud slices out of three are", () => {
  assert.deepEqual(heard([[1, QUIET], [1, LOUD], [2, QUIET], [1, LOUD], [90, QUIET]]).said, []);
  const { said } = heard([[1, QUIET], [1, LOUD], [1, QUIET], [1, LOUD], [40, QUIET]]);
  assert.deepEqual(said, [["start", 10], ["end", 40, 30]]);
});

test("speech that is cut off ends at the last loud slice", () => {
  const { said, bounds } = heard([[1, QUIET], [10, LOUD], [5, QUIET]]);
  bounds.close();
  bounds.close();
  assert.deepEqual(said, [["start", 10], ["end", 110, 100]]);
});

test("sound that was there when the watching began has no bounds, the next has", () => {
  const runs = [[30, LOUD], [40, QUIET], [10, LOUD], [40, QUIET]];
  const said = [];
  const bounds = new Bounds(false, -Infinity, (at) => said.push(at), (at) => said.push(at));
  heard(runs, { bounds });
  assert.deepEqual(said, [700, 800]);
});

test("sound that comes through just after the watching began has no bounds either", () => {
  const starts = (quiet) => {
    const said = [];
    heard([[quiet, QUIET], [30, LOUD]], { bounds: new Bounds(false, -Infinity, (at) => said.push(at)) });
    return said;
  };
  assert.deepEqual(starts(19), []);
  assert.deepEqual(starts(20), [200]);
});

test("sound that is there after a gap has no bounds: nobody saw it begin", () => {
  const { said, bounds, at } = heard([[10, QUIET]]);
  heard([[30, LOUD], [40, QUIET]], { bounds, from: at + 700 });
  assert.deepEqual(said, []);
});

test("a gap longer than a pause ends speech at what was last heard", () => {
  const { said, bounds, at } = heard([[1, QUIET], [20, LOUD]]);
  heard([[20, LOUD], [40, QUIET]], { bounds, from: at + 400 });
  assert.deepEqual(said, [["start", 10], ["end", 210, 200]]);
});

test("a gap shorter than a pause changes nothing while somebody speaks", () => {
  const { said, bounds, at } = heard([[1, QUIET], [20, LOUD]]);
  heard([[20, LOUD], [40, QUIET]], { bounds, from: at + 390 });
  assert.deepEqual(said, [["start", 10], ["end", 800, 790]]);
});

test("a noisy room is not speech, a voice in it is", () => {
  assert.deepEqual(heard([[500, 0.02]], { input: true }).said, []);
  const { said } = heard([[100, 0.02], [50, 0.1], [60, 0.02]], { input: true });
  assert.deepEqual(said, [["start", 1000], ["end", 1500, 500]]);
});

test("a fan that is switched on becomes the room's noise within half a minute", () => {
  const { said } = heard([[100, 0.003], [3000, 0.03]], { input: true });
  assert.equal(said.length, 2);
  assert.ok(said[1][1] < 30_000, `${said}`);
});

test("whispered noise of a quiet room stays below the least level", () => {
  assert.deepEqual(heard([[100, 0], [100, 0.003]], { input: true }).said, []);
});

test("slices are the whole ones of what is new, with their times and levels", () => {
  const samples = new Float32Array(1000);
  samples.fill(0.5, 800, 900);
  const seen = [];
  const next = slices(samples, 4755, 5000, 10_000, (at, rms) => seen.push([at, Math.round(rms * 1000) / 1000]));
  // Frames 4755 and 4855 are samples 755 and 855: 55 loud of the first hundred, 45 of the second.
  assert.deepEqual(seen, [[475.5, 0.371], [485.5, 0.335]]);
  assert.equal(next, 4955);
});

test("nothing new gives no slice, and a late poll only what the window holds", () => {
  const samples = new Float32Array(1000);
  const seen = [];
  assert.equal(slices(samples, 5000, 5000, 10_000, (at) => seen.push(at)), 5000);
  assert.deepEqual(seen, []);
  assert.equal(slices(samples, 0, 5000, 10_000, (at) => seen.push(at)), 5000);
  assert.deepEqual(seen, [400, 410, 420, 430, 440, 450, 460, 470, 480, 490]);
});
