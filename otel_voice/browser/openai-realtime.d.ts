import type { Direction, VoiceTrace } from "./otel-voice.js";

/** The keys of the protocol that are forwarded; everything else stays in the page. */
export const ALLOW_LIST: {
  readonly keyed_by: string;
  readonly aliases: Readonly<Record<string, string>>;
  readonly sent: object;
  readonly received: object;
};

/** What is forwarded of one connection's messages. */
export class Forward {
  feed(dir: Direction, message: unknown): object[];
  flush(): object[];
}

/**
 * Records a connection to OpenAI Realtime, and gives back what it was given: an RTCDataChannel, a WebSocket, or a
 * RealtimeSession of @openai/agents-realtime, each of whose connections is recorded. A data channel does not know who
 * closed its peer connection: call `trace.end("user_hangup")` or `channel.close()` before `connection.close()`.
 */
export function traceOpenAIRealtime<Target extends object>(trace: VoiceTrace, target: Target): Target;
