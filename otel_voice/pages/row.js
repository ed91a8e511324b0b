// A session as a row of the list: what its cells say, and the row itself.

import { element, fill as put } from "./elements.js";
import { NONE, compact, latency, started, startedInFull, words } from "./figures.js";
import { duration, number, plural } from "./format.js";

/** The table's columns, in order; `one` and `many` are what a card on a narrow screen says beside the figure. */
const COLUMNS = [
  { name: "when" },
  { name: "user" },
  { name: "agent" },
  { name: "duration" },
  { name: "turns", one: "turn", many: "turns" },
  { name: "interruptions", one: "interruption", many: "interruptions" },
  { name: "tools", one: "tool", many: "tools" },
  { name: "p50", many: "p50" },
  { name: "p95", many: "p95" },
  { name: "tokens", one: "token", many: "tokens" },
  { name: "end" },
  { name: "lost", one: "lost", many: "lost" },
];

/** What each column but the first says: pairs of a text and the class that it has, if any. */
export function cells(summary) {
  const { p50, p95 } = summary.user_bot_latency_ms;
  const { tool_call_count: tools, tool_error_count: errors, events_lost: lost } = summary;
  return {
    user: [summary.user_id ? [summary.user_id] : [NONE, "muted"]],
    agent: agentAndModel(summary),
    duration: [[duration(summary.duration_ms)]],
    turns: [figure(summary.turn_count)],
    interruptions: [figure(summary.interruption_count)],
    tools: errors ? [[number(tools)], [plural(errors, "error"), "bad"]] : [figure(tools)],
    p50: [measured(p50)],
    p95: [measured(p95)],
    tokens: [tokensOf(summary)],
    end: [ending(summary)],
    lost: [lost ? [number(lost), "warning"] : figure(0)],
  };
}

function agentAndModel({ agent_name: agent, model, provider }) {
  const named = [[agent], [model ?? provider, agent ? "muted" : undefined]].filter(([text]) => text);
  return named.length ? named : [[NONE, "muted"]];
}

const figure = (count, format = number) => (count ? [format(count)] : ["0", "muted"]);

const measured = (ms) => (ms === null ? [NONE, "muted"] : [latency(ms)]);

function tokensOf({ tokens: { input_tokens: input, output_tokens: output } }) {
  return input === undefined && output === undefined ? [NONE, "muted"] : figure((input ?? 0) + (output ?? 0), compact);
}

const TONES = new Map([["error", "bad"], ["microphone_lost", "bad"], ["provider_closed", "warning"], ["idle_timeout", "warning"]]);

function ending({ status, end_reason: reason }) {
  if (status === "open") return ["live", "badge live"];
  if (status === "broken") return ["could not be mapped", "badge bad"];
  if (!reason) return [status === "closing" ? "ending" : NONE, "badge"];
  return [words(reason), TONES.has(reason) ? `badge ${TONES.get(reason)}` : "badge"];
}

/** A row with a link to the session, for the whole of it. */
export function rowOf(summary) {
  const link = element("a", { href: `/sessions/${encodeURIComponent(summary.session_id)}` }, element("time"));
  // A card leaves cells out, and those that are left are still of their columns.
  const cellOf = ({ name }, at) =>
    element("td", { role: "cell", "aria-colindex": at + 1, class: name }, name === "when" && link);
  const row = element("tr", { role: "row", "data-id": summary.session_id }, COLUMNS.map(cellOf));
  fill(row, summary);
  return row;
}

/** Says in the row's cells what the session is now; the link stays, and keeps the focus. */
export function fill(row, summary) {
  const said = cells(summary);
  COLUMNS.forEach((column, at) => column.name in said && write(row.cells[at], column, said[column.name]));
  const time = row.querySelector("time");
  time.dateTime = new Date(summary.started_at).toISOString();
  time.textContent = started(summary.started_at);
  time.parentElement.title = startedInFull(summary.started_at);
  row.classList.toggle("live", summary.status === "open");
}

function write(cell, { one, many }, parts) {
  const spaced = parts.map(([text, tone], at) => [at > 0 && " ", tone ? element("span", { class: tone }, text) : text]);
  put(cell, spaced);
  if (many) cell.dataset.label = parts[0][0] === "1" ? one : many;
  // A card leaves out what did not happen.
  cell.toggleAttribute("data-none", parts.every(([text]) => text === NONE || text === "0"));
}
