// The verdict and the facts of a call.

import { element, fill, reconcile, setText, webAddress } from "./elements.js";
import { date, duration, number, plural, roughly } from "./format.js";
import * as n from "./names.js";
import { verdictOf } from "./verdict.js";

export function showVerdict(parent, call, go) {
  const parts = verdictOf(call).map((part, place) => ({ key: `${place} ${part.to}`, ...part }));
  reconcile(
    parent,
    parts,
    (part) => jump(part, go),
    (node, { text }) => setText(node.firstChild, text),
  );
}

function jump({ to }, go) {
  const follow = (event) => {
    event.preventDefault();
    go(to);
  };
  return element("span", {}, element("a", { href: `#${to}`, click: follow }), " ");
}

export function showFacts(parent, call) {
  const facts = factsOf(call).map(([key, value]) => ({ key, value }));
  reconcile(
    parent,
    facts,
    ({ key }) => element("div", {}, element("dt", {}, key), element("dd")),
    (node, { value }) => {
      // Links stay the same elements, for one of them may have the focus.
      if (typeof value === "string") setText(node.lastChild, value);
      else if (!node.lastChild.hasChildNodes()) fill(node.lastChild, value);
    },
  );
}

/** [[name, text or element]…]: only what is known. */
function factsOf(call) {
  const { summary, root } = call;
  const attributes = root?.attributes ?? {};
  const facts = [
    ["Started", date(summary.started_at)],
    ["User", summary.user_id],
    ["Agent", summary.agent_name],
    ["Model", summary.model ?? modelsOf(call)],
    ["Provider", summary.provider],
    ["End reason", summary.end_reason],
    ["Duration", duration(summary.duration_ms)],
    ["Turns", number(summary.turn_count)],
    ["Interruptions", number(summary.interruption_count)],
    ["Tool calls", toolCalls(summary)],
    ["Latency", latency(summary.user_bot_latency_ms)],
    ["Tokens in", tokens(summary.tokens, "input")],
    ["Tokens out", tokens(summary.tokens, "output")],
    ["Events", events(summary)],
    ["Clock", clock(attributes)],
    ["Trace", traces(call.links)],
    ["Previous session", previous(attributes[n.PREVIOUS_SESSION])],
  ];
  return facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
}

const modelsOf = ({ rows }) =>
  [...new Set(rows.map(({ attributes }) => attributes[n.RESPONSE_MODEL]).filter(Boolean))].join(", ");

function toolCalls({ tool_call_count: count, tool_error_count: failed, tool_cancelled_count: cancelled }) {
  const said = [failed && `${number(failed)} failed`, cancelled && `${number(cancelled)} cancelled`].filter(Boolean);
  return number(count) + (said.length ? ` (${said.join(", ")})` : "");
}

function latency({ p50, p95 } = {}) {
  if (p50 === null || p50 === undefined) return "not measured";
  return `p50 ${duration(p50)}, p95 ${duration(p95)}`;
}

const MODALITIES = { text: "text", audio: "audio", image: "image" };

/** "1,295 (647 text, 648 audio; 322 cached)" */
function tokens(counts = {}, direction) {
  const total = counts[`${direction}_tokens`];
  if (total === undefined) return null;
  const parts = Object.keys(MODALITIES)
    .filter((name) => counts[`${direction}_${name}_tokens`])
    .map((name) => `${number(counts[`${direction}_${name}_tokens`])} ${MODALITIES[name]}`);
  const [key, word] = direction === "input" ? ["cached_tokens", "cached"] : ["reasoning_tokens", "reasoning"];
  const of = [parts.join(", "), counts[key] ? `${number(counts[key])} ${word}` : ""].filter(Boolean).join("; ");
  return number(total) + (of ? ` (${of})` : "");
}

function events(summary) {
  const said = [
    [summary.events_lost, "lost"],
    [summary.events_duplicate, "repeated"],
    [summary.events_conflicting, "conflicting"],
  ].filter(([count]) => count);
  if (summary.events_received === undefined) return null;
  const rest = said.map(([count, word]) => `${number(count)} ${word}`).join(", ");
  return number(summary.events_received) + (rest ? ` (${rest})` : "");
}

function clock(attributes) {
  const offset = attributes[n.CLOCK_OFFSET];
  if (offset === undefined) return null;
  const uncertainty = attributes[n.CLOCK_UNCERTAINTY];
  const way = offset > 0 ? "behind" : "ahead";
  const said =
    Math.abs(offset) < 0.0005 ? "the page’s agrees" : `the page’s is ${duration(Math.abs(offset) * 1000)} ${way}`;
  return said + (uncertainty === undefined ? "" : `, ± ${duration(uncertainty * 1000)}`);
}

function traces(links) {
  const found = [
    ["Jaeger", webAddress(links.jaeger)],
    ["Langfuse", webAddress(links.langfuse)],
  ].filter(([, address]) => address);
  const there = found.map(([name, href]) => element("a", { href, target: "_blank", rel: "noopener noreferrer" }, name));
  return there.length ? there.flatMap((link, place) => (place ? [", ", link] : [link])) : null;
}

function previous(id) {
  return id ? element("a", { href: `/sessions/${encodeURIComponent(id)}`, class: "mono" }, id) : null;
}

export function showStatus(parent, { summary }) {
  const { status } = summary;
  const badge =
    status === "ended" ? null : element("span", { class: `badge ${status === "open" ? "live" : ""}` }, STATES[status]);
  fill(parent, badge);
}

const STATES = { open: "live", closing: "closing" };

export const titleOf = ({ id, summary }) =>
  `${summary.agent_name ?? "Session"} ${id.slice(0, 8)}, ${plural(summary.turn_count, "turn")} in ${roughly(summary.duration_ms)}`;
