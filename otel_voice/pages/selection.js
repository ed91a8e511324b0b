// What is selected, in a line over the lanes.

import { element } from "./elements.js";
import { duration, moment } from "./format.js";
import { TOOL_NAME } from "./names.js";

const NAMES = {
  turn: "",
  user_speech: "user speaks",
  agent_speech: "agent audible",
  response: "model response",
  session: "session",
};

export function selectionOf(row, call, onOpen) {
  const name = row.kind === "tool" ? (row.attributes[TOOL_NAME] ?? row.name) : (NAMES[row.kind] ?? row.name);
  const said = [
    row.turn && `Turn ${row.turn.number}`,
    name,
    moment(row.start - call.start, 2),
    duration(row.end - row.start),
  ];
  return [
    element("span", {}, said.filter(Boolean).join(" · ")),
    element("button", { type: "button", click: () => onOpen(row.id) }, "Details"),
  ];
}
