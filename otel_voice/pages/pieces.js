// The pieces of a turn: what the user or the agent said, a tool call, an error or a mark.

import { element, fill, setText } from "./elements.js";
import { duration } from "./format.js";
import { ARGUMENTS, ERROR_TYPE, LATE, RESULT, TOOL_NAME } from "./names.js";

// A tool call with more is folded.
const LONG = 140;

const said = (who) => (piece) =>
  element(
    "p",
    { class: `said ${who}`, "data-id": piece.row.id },
    element("span", { class: "who" }, who === "user" ? "User" : "Agent"),
    element("span", {}, element("span"), who === "agent" && element("s")),
  );

function says(node, piece) {
  const [words, unheard] = node.lastChild.children;
  setText(words, piece.heard ?? piece.text);
  if (!unheard) return;
  unheard.hidden = !piece.unheard;
  if (piece.unheard) unheard.title = "Not heard: the user spoke before it was played (by the words’ pace, about)";
  setText(unheard, piece.unheard ?? "");
}

function makeTool({ row }) {
  const long = String(row.attributes[ARGUMENTS] ?? "").length + String(row.attributes[RESULT] ?? "").length > LONG;
  return element(
    "details",
    { class: "called", "data-id": row.id, open: !long },
    element("summary"),
    element("pre", { class: "arguments" }),
    element("pre", { class: "result" }),
  );
}

function toolSays(node, { row }) {
  const [summary, given, got] = node.children;
  const text = `${row.attributes[TOOL_NAME] ?? row.name} · ${row.runs ? "runs" : duration(row.end - row.start)}`;
  const state = row.cancelled
    ? "cancelled"
    : row.failed
      ? row.attributes[ERROR_TYPE] === "unanswered"
        ? "unanswered"
        : "failed"
      : "";
  if (node.dataset.says !== text + state) {
    const badge = state && element("span", { class: `badge ${row.failed ? "bad" : "warning"}` }, state);
    fill(
      summary,
      text,
      " ",
      badge || null,
      element("button", { type: "button", class: "plain", "data-open": row.id }, "Details"),
    );
    node.dataset.says = text + state;
  }
  setText(
    given,
    row.attributes[ARGUMENTS] === undefined ? "arguments not recorded" : String(row.attributes[ARGUMENTS]),
  );
  const result = row.attributes[RESULT];
  setText(
    got,
    result === undefined ? (row.runs ? "…" : row.span.status_message || "no result recorded") : `→ ${result}`,
  );
}

function makeEvent({ row }) {
  const kind = row.failed ? "bad" : row.attributes[LATE] ? "warning" : "";
  const name = row.failed ? "error" : row.attributes[LATE] ? "came late" : "mark";
  const text = row.failed && row.span.status_message ? row.span.status_message : row.name;
  return element(
    "p",
    { class: "event", "data-id": row.id },
    element("span", { class: `badge ${kind}` }, name),
    " ",
    text,
    element("button", { type: "button", class: "plain", "data-open": row.id }, "Details"),
  );
}

const nothing = ({ row }) => element("p", { class: "muted", "data-id": row.id }, "No words were recorded.");

export const MAKE = { user: said("user"), agent: said("agent"), tool: makeTool, event: makeEvent, nothing };
export const UPDATE = { user: says, agent: says, tool: toolSays };
