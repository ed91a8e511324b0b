// Spans and summary -> a call: turns with their words, responses, tools and speech; times are ms since the epoch.

import { bargeInsOf } from "./barge_ins.js";
import { paceOf, unheardIn } from "./heard.js";
import * as n from "./names.js";
import { silencesOf } from "./silence.js";

const KINDS = { invoke_agent: "turn", generate_content: "response", execute_tool: "tool" };
const rows = new WeakMap();
const made = new WeakMap();

/** `looked` is an answer of /v1/sessions/ID/spans. */
export function callOf({ session_id, trace_id, summary, spans, links }) {
  const all = spans.map(rowOf).sort((a, b) => a.start - b.start || b.end - a.end);
  const root = all.find((row) => row.kind === "session") ?? null;
  const inside = childrenOf(all);
  const turns = all.filter((row) => row.kind === "turn").map((row) => turnOf(row, inside.get(row.id) ?? []));
  turns.sort((a, b) => a.number - b.number || a.start - b.start);
  nameTurns(turns);
  markUnheard(turns);
  const start = all.reduce((least, row) => Math.min(least, row.start), root?.start ?? summary.started_at);
  const end = all.reduce((most, row) => Math.max(most, row.end), start);
  for (const row of all) row.runs = isRunning(row, root?.end ?? end);
  return {
    id: session_id,
    traceId: trace_id,
    summary,
    links: links ?? {},
    root,
    rows: all,
    byId: new Map(all.map((row) => [row.id, row])),
    turns,
    // What belongs to no turn: tools, marks and errors of the session itself.
    apart: all.filter((row) => row.turn === null && (row.kind === "tool" || row.kind === "event")),
    start,
    end: Math.max(end, start + 1),
    running: summary.status !== "ended",
    bargeIns: bargeInsOf(turns),
    silences: silencesOf(turns),
  };
}

/** A span as the page works with it; made once a span. */
function rowOf(span) {
  let row = rows.get(span);
  if (row === undefined) {
    const attributes = span.attributes ?? {};
    row = {
      id: span.span_id,
      parent: span.parent_span_id,
      name: span.name,
      kind: kindOf(span.name, attributes),
      start: span.start_time_unix_nano / 1e6,
      end: span.end_time_unix_nano / 1e6,
      open: span.open === true,
      failed: span.status === "ERROR",
      cancelled: attributes[n.ERROR_TYPE] === "cancelled",
      attributes,
      span,
      turn: null,
    };
    rows.set(span, row);
  }
  row.turn = null;
  return row;
}

/** A span may be open and over: it is final only later. What still runs, runs to the last event. */
function isRunning({ kind, open, end, attributes }, last) {
  if (kind === "turn") return open && attributes[n.TURN_END] === undefined;
  if (kind === "tool" && (n.RESULT in attributes || n.ERROR_TYPE in attributes)) return false;
  return open && end >= last - 1;
}

function kindOf(name, attributes) {
  if (attributes[n.OBSERVATION_TYPE] === "event") return "event";
  if (name === n.SESSION) return "session";
  if (name === n.USER_SPEECH || name === n.AGENT_SPEECH) return name;
  return KINDS[attributes[n.OPERATION]] ?? "other";
}

function childrenOf(all) {
  const inside = new Map();
  for (const row of all) {
    if (!inside.has(row.parent)) inside.set(row.parent, []);
    inside.get(row.parent).push(row);
  }
  return inside;
}

/** The same turn as before while nothing of it has changed. */
function turnOf(row, inside) {
  const before = made.get(row);
  const same = before?.inside.length === inside.length && inside.every((each, place) => each === before.inside[place]);
  if (!same) made.set(row, { inside, turn: newTurn(row, inside) });
  const { turn } = made.get(row);
  for (const each of [row, ...inside]) each.turn = turn;
  return turn;
}

function newTurn(row, inside) {
  const { attributes } = row;
  const of = (kind) => inside.filter((each) => each.kind === kind);
  const turn = {
    id: row.id,
    row,
    number: attributes[n.TURN_NUMBER] ?? Infinity,
    start: row.start,
    end: row.end,
    user: textOf(attributes[n.INPUT]),
    agent: textOf(attributes[n.OUTPUT]),
    responses: of("response"),
    tools: of("tool"),
    userSpeech: of(n.USER_SPEECH),
    agentSpeech: of(n.AGENT_SPEECH),
    events: of("event"),
    latency: attributes[n.LATENCY] === undefined ? null : attributes[n.LATENCY] * 1000,
    interruptedBy: attributes[n.INTERRUPTED_BY] ?? null,
    interrupted: n.INTERRUPTED_BY in attributes || attributes[n.TURN_END] === "interrupted",
    heard: attributes[n.PLAYOUT] === undefined ? null : attributes[n.PLAYOUT] * 1000,
  };
  turn.answered = answeredAt(turn);
  turn.pieces = piecesOf(turn);
  return turn;
}

/** A turn without a number (of another sender) has its place's. */
function nameTurns(turns) {
  turns.forEach((turn, place) => {
    if (turn.number === Infinity) turn.number = place + 1;
  });
}

/** When the agent was first heard; the playback's own word beats the provider's first output. */
function answeredAt(turn) {
  if (turn.agentSpeech.length) return turn.agentSpeech[0].start;
  const outputs = turn.responses.map(firstOutput).filter((t) => t !== null);
  return outputs.length ? Math.min(...outputs) : null;
}

export function firstOutput(response) {
  const t = Date.parse(response.attributes[n.FIRST_OUTPUT] ?? "");
  return Number.isNaN(t) ? null : t;
}

/** What was said and called, in its order: the agent's words stand where they began. */
function piecesOf(turn) {
  const spoken = turn.responses
    .map((row) => ({ kind: "agent", t: firstOutput(row) ?? row.start, text: textOf(row.attributes[n.OUTPUT]), row }))
    .filter(({ text }) => text);
  const whole = squeezed(spoken.map(({ text }) => text).join(" ")) === squeezed(turn.agent);
  const words = whole ? spoken : turn.agent ? [{ kind: "agent", t: Infinity, text: turn.agent, row: turn.row }] : [];
  const called = turn.tools.map((row) => ({ kind: "tool", t: row.start, row }));
  const happened = turn.events.map((row) => ({ kind: "event", t: row.start, row }));
  const answer = [...words, ...called, ...happened].sort((a, b) => a.t - b.t);
  const row = turn.userSpeech[0] ?? turn.row;
  return turn.user ? [{ kind: "user", t: turn.start, text: turn.user, row }, ...answer] : answer;
}

function markUnheard(turns) {
  const cut = turns.filter((turn) => turn.interrupted && turn.heard !== null && turn.agent);
  const pace = cut.length ? paceOf(turns) : 0;
  for (const turn of cut) unheardIn(turn, pace);
}

const squeezed = (text) => text.replace(/\s+/g, " ").trim();

/** The words of OpenTelemetry's messages; what is no message is shown as it is. */
export function textOf(messages) {
  if (!messages) return "";
  try {
    return JSON.parse(messages)
      .flatMap(({ parts }) => parts ?? [])
      .filter(({ type }) => type === "text")
      .map(({ content }) => String(content))
      .join(" ");
  } catch {
    return String(messages);
  }
}
