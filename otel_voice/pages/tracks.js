// A call -> the lanes' items. Pure.

import { stack } from "./axis.js";
import { firstOutput } from "./call.js";
import { duration } from "./format.js";
import * as n from "./names.js";

const MOST_ROWS = 3;

export const LANES = [
  { key: "user", name: "User" },
  { key: "agent", name: "Agent" },
  { key: "model", name: "Model" },
  { key: "tools", name: "Tools" },
  { key: "connection", name: "Session" },
];

/** [{key, name, rows, items}]; an item: {id, start, end, row, kind, label, says, failed, runs}. */
export function tracksOf(call) {
  const items = { user: [], agent: [], model: [], tools: [], connection: [] };
  for (const row of call.rows) add(items, row);
  for (const turn of call.turns) if (!turn.agentSpeech.length) items.agent.push(...unmeasured(turn));
  items.agent.sort((a, b) => a.start - b.start);
  return LANES.map(({ key, name }) => ({ key, name, ...stack(items[key], MOST_ROWS) }));
}

function add(items, row) {
  const [key, label] = placeOf(row);
  if (key) items[key].push(item(row, row.start, row.end, label));
}

function placeOf(row) {
  switch (row.kind) {
    case n.USER_SPEECH:
      return ["user", row.turn?.user ?? ""];
    case n.AGENT_SPEECH:
      return ["agent", row.turn?.agent ?? ""];
    case "response":
      return ["model", row.attributes[n.RESPONSE_MODEL] ?? row.name];
    case "tool":
      return ["tools", row.attributes[n.TOOL_NAME] ?? row.name];
    case "session":
      return ["connection", row.attributes[n.END_REASON] ?? ""];
    default:
      return [];
  }
}

function item(row, start, end, label, kind = row.kind) {
  const turn = row.turn ? `, turn ${row.turn.number}` : "";
  const state = row.cancelled ? ", cancelled" : row.failed ? ", failed" : row.runs ? ", so far" : "";
  const by = row.attributes[n.MEASURED_BY] ? ` (by ${row.attributes[n.MEASURED_BY]})` : "";
  const what = `${NAMES[kind] ?? row.name}${turn}, ${duration(end - start)}${by}${state}`;
  const says = label ? `${what}: ${label.slice(0, 200)}` : what;
  return {
    id: row.id,
    start,
    end,
    kind,
    label: label.slice(0, 300),
    says,
    failed: row.failed,
    runs: row.runs,
    cancelled: row.cancelled,
  };
}

const NAMES = {
  user_speech: "User speaks",
  agent_speech: "Agent audible",
  unmeasured: "Answer, its playing not measured",
  response: "Model response",
  tool: "Tool",
  session: "Session",
};

/** Where nobody measured the playing, the answer's output stands in, and looks it. */
function unmeasured(turn) {
  if (!turn.agent) return [];
  return turn.responses
    .map((row) => [row, firstOutput(row)])
    .filter(([, output]) => output !== null)
    .map(([row, output]) => item(row, output, Math.max(row.end, output), turn.agent, "unmeasured"));
}

/** Moments on the session's lane: errors, marks, facts that came late, its end. */
export function pointsOf(call) {
  const points = call.rows
    .filter(({ kind }) => kind === "event")
    .map((row) => ({
      id: row.id,
      t: row.start,
      kind: row.failed ? "error" : row.attributes[n.LATE] ? "late" : "mark",
      says: `${row.failed ? "Error" : row.attributes[n.LATE] ? "Came late" : "Mark"}: ${row.failed ? row.span.status_message || row.name : row.name}`,
    }));
  if (call.root && call.summary.end_reason) {
    points.push({
      id: call.root.id,
      t: call.root.end,
      kind: "end",
      says: `End: ${call.summary.end_reason ?? "reason unknown"}`,
    });
  }
  return points.sort((a, b) => a.t - b.t);
}
