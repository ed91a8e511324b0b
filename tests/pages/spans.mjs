// Spans and calls for the tests; times are ms from the call's start.

import { callOf } from "../../otel_voice/pages/call.js";

export const START = 1_790_000_000_000;
const nanos = (ms) => (START + ms) * 1e6;
const said = (text) =>
  text ? JSON.stringify([{ role: "user", parts: [{ type: "text", content: text }] }]) : undefined;

let made = 0;

export function span(name, start, end, attributes = {}, rest = {}) {
  const known = Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));
  return {
    name,
    trace_id: "t".repeat(32),
    span_id: `s${made++}`,
    parent_span_id: "root",
    kind: "INTERNAL",
    start_time_unix_nano: nanos(start),
    end_time_unix_nano: nanos(end),
    attributes: known,
    status: "UNSET",
    status_message: "",
    links: [],
    open: false,
    ...rest,
  };
}

/** A turn and what is in it; `user` and `agent` are [start, end] of speech, `responses` [start, output, end, text]. */
export function turn(
  number,
  start,
  end,
  { user, agent, responses = [], tools = [], latency, said: words = ["Hello?", "Hello."], heard, ...rest } = {},
) {
  const own = span("invoke_agent shop", start, end, {
    "gen_ai.operation.name": "invoke_agent",
    "voice.turn.number": number,
    "voice.user_bot_latency": latency === undefined ? undefined : latency / 1000,
    "voice.playout.position": heard === undefined ? undefined : heard / 1000,
    "gen_ai.input.messages": said(words[0]),
    "gen_ai.output.messages": said(words[1]),
    ...rest,
  });
  const within = { parent_span_id: own.span_id };
  return [
    own,
    ...(user ? [span("user_speech", ...user, {}, within)] : []),
    ...(agent ? [span("agent_speech", ...agent, {}, within)] : []),
    ...responses.map(([from, output, to, text]) => response(from, output, to, text, within)),
    ...tools.map(([name, from, to, state]) => tool(name, from, to, state, within)),
  ];
}

function response(from, output, to, text, within) {
  const first = output === null ? undefined : new Date(START + output).toISOString();
  const keys = { "gen_ai.operation.name": "generate_content", "langfuse.observation.completion_start_time": first };
  return span("generate_content m", from, to, { ...keys, "gen_ai.output.messages": said(text) }, within);
}

function tool(name, from, to, state, within) {
  const keys = { "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "error.type": state };
  return span(`execute_tool ${name}`, from, to, keys, {
    ...within,
    status: state === "tool_error" ? "ERROR" : "UNSET",
  });
}

export function event(name, t, rest = {}) {
  return span(name, t, t, { "langfuse.observation.type": "event" }, rest);
}

export function call(turns, { end = 60_000, summary = {}, apart = [], root = {} } = {}) {
  const spans = turns.flat();
  const session = span("voice_session", 0, end, root, { span_id: "root", parent_span_id: "" });
  const known = {
    status: "ended",
    started_at: START,
    duration_ms: end,
    end_reason: "user_hangup",
    events_lost: 0,
    ...summary,
  };
  return callOf({ session_id: "s", trace_id: "t".repeat(32), summary: known, spans: [session, ...spans, ...apart] });
}
