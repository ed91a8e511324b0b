// Checked by tsc against the installed package; it never runs.
import { instrument, traceGeminiLive } from "otel-voice/gemini-live";
import { traceOpenAIRealtime } from "otel-voice/openai-realtime";
import { useGeminiLiveTrace, useVoiceTrace } from "otel-voice/react";
import { type EndReason, type Made, type ToolOutcome, type Usage, VoiceTrace } from "otel-voice";

declare const made: Made;
declare const node: GainNode;
declare const element: HTMLAudioElement;
declare const stream: MediaStream;
declare const channel: RTCDataChannel;
declare const live: { connect(params: { model: string }): Promise<{ close(): void }> };

const renew = async (sessionId: string): Promise<Made> => (await fetch(`/api/token/${sessionId}`)).json();
const trace: VoiceTrace = new VoiceTrace(made, { renew, propagateTo: ["https://api.example.com"] });
new VoiceTrace(made);
// @ts-expect-error: the answer of POST /v1/sessions is needed
new VoiceTrace();
// @ts-expect-error: it has no such option
new VoiceTrace(made, { endpoint: "https://example.com" });
// @ts-expect-error: `renew` answers later
new VoiceTrace(made, { renew: () => made });

const usage: Usage = { input_tokens: 12, output_tokens: 7, output_audio_tokens: 5, reasoning_tokens: 1 };
const nothing: void = trace.turnStart("t1");
trace.turnComplete("t1");
trace.turnComplete("t1", { user_text: "Hello", agent_text: "Hi", usage, model: "m", end_reason: "interrupted" });
// @ts-expect-error: the wire's names are snake_case
trace.turnComplete("t1", { userText: "Hello" });
// @ts-expect-error: no such reason
trace.turnComplete("t1", { end_reason: "bored" });

trace.toolCall("c1", "get_weather");
trace.toolCall("c1", "get_weather", { city: "Rome" }, { turn_id: "t1" });
// @ts-expect-error: a tool has a name
trace.toolCall("c1");
const outcome: ToolOutcome = { result: { sky: "clear" } };
trace.toolResult("c1", outcome, { name: "get_weather" });
trace.toolResult("c1", { result: null, error: null });
trace.toolResult("c1", { error: "no such city" });
trace.toolResult("c1", { cancelled: true });
trace.toolResult("c1");
// @ts-expect-error: a result or an error
trace.toolResult("c1", { result: 1, error: "one" });

trace.transcript("user", "Hello", { final: true, item_id: "i1" });
// @ts-expect-error: no such role
trace.transcript("robot", "Hello");
trace.userSpeechStart({ measured_by: "energy", item_id: "i1" });
trace.userSpeechEnd();
trace.agentSpeechStart({ measured_by: "playback" });
trace.agentSpeechEnd({ heard_ms: 1_200, response_id: "r1" });
// @ts-expect-error: only the agent is heard
trace.userSpeechEnd({ heard_ms: 1_200 });
trace.responseStart({ response_id: "r1", model: "m" });
trace.responseEnd({ response_id: "r1", finish_reason: "stop", usage, error: "none", error_type: "x" });
trace.interrupted({ source: "programmatic", heard_ms: 300 });
// @ts-expect-error: no such source
trace.interrupted({ source: "thunder" });
trace.error(new Error("no microphone"), { code: "media" });
trace.error("no microphone");
trace.mark("menu opened", { items: 3, first: "help", open: true, last: null });
// @ts-expect-error: attributes are flat
trace.mark("menu opened", { items: [1, 2] });
trace.end();
trace.end("agent_hangup");
trace.end("a reason of the app's own" satisfies EndReason);

const header: Promise<string> = trace.traceparent("c1");
const answer: Promise<Response> = trace.fetch("/api/weather", { method: "POST" }, { callId: "c1" });
const ids: string = trace.sessionId + trace.traceId;
// @ts-expect-error: it does not change
trace.sessionId = "another";

const stops: (() => void)[] = [
  trace.audioOutput(node),
  trace.audioOutput(element),
  trace.audioOutput(() => null),
  trace.audioInput(stream),
];
// @ts-expect-error: nothing to hear
trace.audioOutput("loudspeaker");

trace.event("mark", { name: "x" }, performance.now());
trace.forward("gemini-live", "received", { setupComplete: {} });
// @ts-expect-error: no such provider
trace.forward("gemini", "received", {});
const count: number | undefined = trace.quietly(() => 1);
trace.opened();
trace.closed("go_away");
trace.lost("microphone_lost");
trace.beforeEnd(() => {});

const session: Promise<{ close(): void }> = traceGeminiLive(trace, live).connect({ model: "m" });
const undo: () => void = instrument({ client: { live } }, trace);
const same: RTCDataChannel = traceOpenAIRealtime(trace, channel);

export function Call({ client }: { client: object | null }): string {
  const { trace, start, stop } = useVoiceTrace({ token: async () => made, renew });
  const started: Promise<VoiceTrace | null> = start(made);
  trace?.mark("rendered");
  // @ts-expect-error: there may be none
  trace.mark("rendered");
  stop();
  stop("agent_hangup");
  // @ts-expect-error: a token is needed
  useVoiceTrace({});
  // @ts-expect-error: a client comes first
  useGeminiLiveTrace({ token: async () => made });
  return `${started} ${useGeminiLiveTrace(client, { token: async () => made }).trace?.traceId}`;
}

export const all = [nothing, header, answer, ids, stops, count, session, undo, same];
