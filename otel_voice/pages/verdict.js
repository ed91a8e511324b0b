// One sentence on a call, made from its facts: parts that say where they are to be seen.

import { duration, plural, roughly, times } from "./format.js";
import { latencyOf, mostOf, NAMES } from "./latency.js";
import { TOOL_NAME } from "./names.js";

const ENDS = {
  user_hangup: "Ended by the user",
  agent_hangup: "Ended by the agent",
  page_closed: "The page was closed",
  idle_timeout: "Ended because nothing came any more,",
  max_duration: "Ended at its longest allowed duration,",
  microphone_lost: "The microphone was lost",
  provider_closed: "The provider closed the connection",
  go_away: "The provider ended the connection in its time",
  error: "Ended by an error",
  recording_ended: "The recording ends",
  completed: "Completed",
};

/** [{text, to}]: `to` is the id of a turn or span, "end" or "facts". */
export function verdictOf(call) {
  return [ending(call), slowest(call), interruptions(call), ...tools(call), errors(call), lost(call)].filter(Boolean);
}

function ending({ summary }) {
  const length = roughly(summary.duration_ms);
  if (summary.status === "open") return { text: `Running for ${length}.`, to: "end" };
  const reason = summary.end_reason;
  if (!reason) return { text: `${summary.status === "closing" ? "Ending" : "Ended"} after ${length}.`, to: "end" };
  return { text: `${Object.hasOwn(ENDS, reason) ? ENDS[reason] : `Ended (${reason})`} after ${length}.`, to: "end" };
}

function slowest({ turns }) {
  const answered = turns.filter(({ latency }) => latency !== null);
  if (!answered.length) return turns.length ? { text: "No answer's latency was measured.", to: turns[0].id } : null;
  const turn = answered.reduce((worst, each) => (each.latency > worst.latency ? each : worst));
  const latency = latencyOf(turn);
  const most = latency && mostOf(latency);
  const why =
    most === null ? "" : most === NAMES.unknown ? ", nobody measured of what" : `, most of it ${spoken(most)}`;
  return { text: `Slowest answer: turn ${turn.number}, ${duration(turn.latency)}${why}.`, to: turn.id };
}

const spoken = (name) =>
  ({
    [NAMES.begin]: "before the response began",
    [NAMES.model]: "the model",
    [NAMES.playback]: "before it was audible",
  })[name] ?? name;

function interruptions({ turns }) {
  const cut = turns.filter(({ interrupted }) => interrupted);
  return cut.length ? { text: `Interrupted ${times(cut.length)}.`, to: cut[0].id } : null;
}

function tools({ rows }) {
  const called = rows.filter(({ kind, runs }) => kind === "tool" && !runs);
  return [
    counted(
      called.filter(({ failed }) => failed),
      "failed",
    ),
    counted(
      called.filter(({ cancelled }) => cancelled),
      "was cancelled",
      "were cancelled",
    ),
  ];
}

function counted(found, one, more = one) {
  if (!found.length) return null;
  const [first] = found;
  const name = first.attributes[TOOL_NAME] ?? "a tool";
  const text = found.length === 1 ? `${name} ${one}.` : `${plural(found.length, "tool call")} ${more}.`;
  return { text, to: first.id };
}

function errors({ rows }) {
  const found = rows.filter(({ kind, failed }) => failed && kind !== "tool");
  return found.length ? { text: `${plural(found.length, "error")}.`, to: found[0].id } : null;
}

function lost({ summary }) {
  const { events_lost: count } = summary;
  return count ? { text: `${plural(count, "event")} lost.`, to: "facts" } : null;
}
