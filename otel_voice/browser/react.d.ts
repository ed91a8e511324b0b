import type { EndReason, Made, VoiceTrace, VoiceTraceOptions } from "./otel-voice.js";

export interface UseVoiceTraceOptions extends VoiceTraceOptions {
  /** Asks your backend for a session: what it got from `POST /v1/sessions`. */
  token: () => Promise<Made>;
}

export interface VoiceTraceHook {
  /** The running trace. null before it is there and after its end; the component renders again at both. */
  trace: VoiceTrace | null;
  /** Starts a trace, with `made` or else with what `token` gives. While one starts or runs, that one is the answer;
   * null where there is none: the token failed (said by `console.warn`), or it was stopped before it was there. */
  start(made?: Made): Promise<VoiceTrace | null>;
  /** Ends it, or as soon as it is there. */
  stop(reason?: EndReason): void;
}

/** A trace that you start and stop; it ends when the component goes. */
export function useVoiceTrace(options: UseVoiceTraceOptions): VoiceTraceHook;

/**
 * Traces the calls of a `GenAILiveClient` of Google's sample apps: each starts with its connection, unless a trace was
 * started before, and ends when it hangs up. The token is fetched while the client connects; nothing waits for it.
 */
export function useGeminiLiveTrace(client: object | null | undefined, options: UseVoiceTraceOptions): VoiceTraceHook;
