// A turn's latency, from the user's end to the answer, as parts that are disjoint and add up to the whole.

import { firstOutput } from "./call.js";
import { TOOL_NAME } from "./names.js";

export const NAMES = {
  begin: "until the response begins",
  model: "model, to its first output",
  tool: "tool",
  playback: "first output to audible",
  unknown: "unknown",
};
// The trace has whole ms for a first output and µs for the rest: less is no part of its own.
const LEAST_MS = 1;

/** {start, end, total, measured, parts: [{kind, name, start, end, ms, id}]}; `measured` is how the answer was. */
export function latencyOf(turn) {
  if (turn.latency === null || turn.answered === null) return null;
  const [start, end] = [turn.answered - turn.latency, turn.answered];
  const moments = momentsOf(turn, start, end);
  const parts = [];
  for (let place = 1; place < moments.length; place++) {
    grow(parts, partAt(turn, moments[place - 1], moments[place], end));
  }
  return { start, end, total: turn.latency, measured: turn.agentSpeech.length > 0, parts };
}

/** Where a part may begin or end, in order, from the start to the end. */
function momentsOf(turn, start, end) {
  const within = [...turn.responses.flatMap((row) => [row.start, firstOutput(row) ?? row.end, row.end])];
  within.push(...turn.tools.flatMap((row) => [row.start, row.end]));
  const moments = [start];
  for (const t of within.sort((a, b) => a - b)) {
    if (t - moments.at(-1) >= LEAST_MS && end - t >= LEAST_MS) moments.push(t);
  }
  return [...moments, end];
}

function partAt(turn, start, end, answered) {
  const middle = (start + end) / 2;
  const during = (row) => row.start <= middle && middle < row.end;
  const tools = turn.tools.filter(during);
  if (tools.length) return part("tool", start, end, [...new Set(tools.map(toolName))].sort().join(" + "), tools[0].id);
  const response = turn.responses.filter((row) => row.start <= middle).at(-1);
  if (response === undefined) return part(turn.responses.length ? "begin" : "unknown", start, end);
  return part(kindIn(turn, response, middle, answered), start, end, undefined, response.id);
}

function kindIn(turn, response, t, answered) {
  const output = firstOutput(response);
  if (output !== null) {
    if (t < output) return "model";
    if (t < answered && turn.agentSpeech.length) return "playback";
    return "unknown";
  }
  // It ended in a tool call, or nobody told when its first output came.
  if (response.end >= answered) return "unknown";
  if (t < response.end) return "model";
  return turn.responses.some(({ start }) => start >= response.end) ? "begin" : "unknown";
}

const part = (kind, start, end, name = NAMES[kind], id = null) => ({ kind, name, start, end, ms: end - start, id });

const toolName = (row) => row.attributes[TOOL_NAME] ?? row.name;

function grow(parts, next) {
  const last = parts.at(-1);
  if (last && last.kind === next.kind && last.name === next.name) {
    last.end = next.end;
    last.ms = last.end - last.start;
  } else parts.push(next);
}

/** The kind or tool that took more than half of it, null if none did. */
export function mostOf(latency) {
  const sums = new Map();
  for (const { name, ms } of latency.parts) sums.set(name, (sums.get(name) ?? 0) + ms);
  const [name, ms] = [...sums].sort((a, b) => b[1] - a[1])[0] ?? [null, 0];
  return ms > latency.total / 2 ? name : null;
}
