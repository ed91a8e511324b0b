import type { Direction, VoiceTrace } from "./otel-voice.js";

/** The keys of the protocol that are forwarded; everything else stays in the page. */
export const ALLOW_LIST: { readonly sent: object; readonly received: object };

/** What is forwarded of one connection's messages. */
export class Forward {
  feed(dir: Direction, message: unknown): object[];
  flush(): object[];
}

/**
 * `ai.live` of @google/genai, whose connections are recorded from here on: `traceGeminiLive(trace, ai.live).connect(…)`.
 * The session that `connect` gives is the SDK's own, and the callbacks are called as they would be.
 */
export function traceGeminiLive<Live extends { connect(params: any): Promise<any> }>(
  trace: VoiceTrace,
  live: Live,
): Live;

/**
 * Records what a `GenAILiveClient` of Google's sample apps does, by the `client.client.live` that it connects with;
 * for one without, by its events, of which there are fewer. The connections that open from now on go to this trace,
 * also when the client was given another before. Returns what stops that for the connections to come.
 */
export function instrument(client: object, trace: VoiceTrace): () => void;
