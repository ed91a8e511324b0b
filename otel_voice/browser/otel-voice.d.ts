/** What `POST /v1/sessions` answered your backend, which hands it to its page. Times are ms since the epoch. */
export interface Made {
  session_id: string;
  trace_id: string;
  token: string;
  traceparent: string;
  events_url: string;
  expires_at: number;
}

export interface VoiceTraceOptions {
  /** Asks your backend for another token of this session, before the old one expires or when it is refused. */
  renew?: (sessionId: string) => Promise<Made>;
  /** Origins beside the page's own that `trace.fetch` sends `traceparent` to; they must allow the header by CORS. */
  propagateTo?: readonly string[];
}

export type Role = "user" | "agent" | "assistant";
export type Provider = "gemini-live" | "openai-realtime";
export type Direction = "sent" | "received";

/** Who says when somebody was audible: a bound that was not measured is left out. */
export type MeasuredBy = "provider_vad" | "energy" | "playback" | (string & {});

/** The receiver knows these; another reason of your own is kept as it is. */
export type EndReason =
  | "user_hangup"
  | "agent_hangup"
  | "page_closed"
  | "microphone_lost"
  | "provider_closed"
  | "go_away"
  | "error"
  | (string & {});

/** Tokens of one model response. The modality counts are contained in the totals; what is not known is left out. */
export interface Usage {
  input_tokens?: number;
  output_tokens?: number;
  input_text_tokens?: number;
  input_audio_tokens?: number;
  input_image_tokens?: number;
  output_text_tokens?: number;
  output_audio_tokens?: number;
  cached_tokens?: number;
  cached_text_tokens?: number;
  cached_audio_tokens?: number;
  reasoning_tokens?: number;
}

export interface TurnCompleteFields {
  user_text?: string;
  agent_text?: string;
  usage?: Usage;
  model?: string;
  end_reason?: "completed" | "interrupted" | "session_closed";
}

export interface ToolCallFields {
  turn_id?: string;
  response_id?: string;
}

/** With none of them, the tool answered nothing. */
export type ToolOutcome =
  | { result: unknown; error?: null; cancelled?: false }
  | { error: unknown; result?: undefined; cancelled?: false }
  | { cancelled: true; result?: undefined; error?: undefined }
  | { result?: undefined; error?: undefined; cancelled?: undefined };

export interface ToolResultFields {
  name?: string;
  turn_id?: string;
}

/** Chunks of one `item_id` are joined in order; a `final` one replaces them. `typed` text was written, not spoken. */
export interface TranscriptFields {
  final?: boolean;
  typed?: boolean;
  item_id?: string;
  turn_id?: string;
  response_id?: string;
}

export interface UserSpeechStartFields {
  measured_by?: MeasuredBy;
  turn_id?: string;
  item_id?: string;
}

export interface UserSpeechEndFields {
  measured_by?: MeasuredBy;
  turn_id?: string;
  item_id?: string;
}

export interface AgentSpeechStartFields {
  measured_by?: MeasuredBy;
  turn_id?: string;
  response_id?: string;
}

export interface AgentSpeechEndFields {
  measured_by?: MeasuredBy;
  turn_id?: string;
  response_id?: string;
  /** How much of it the user has heard. */
  heard_ms?: number;
}

export interface ResponseStartFields {
  response_id?: string;
  model?: string;
  turn_id?: string;
}

export interface ResponseEndFields {
  response_id?: string;
  model?: string;
  finish_reason?: string;
  usage?: Usage;
  error?: string;
  error_type?: string;
  turn_id?: string;
}

export interface InterruptedFields {
  source?: "user_speech" | "tool_response" | "programmatic";
  heard_ms?: number;
  turn_id?: string;
  response_id?: string;
}

export interface ErrorFields {
  code?: string;
  turn_id?: string;
}

export type Attributes = Record<string, string | number | boolean | null>;

/** What can be heard: a function is asked again and again, since players replace their nodes at a barge-in. */
export type Audible = AudioNode | HTMLMediaElement | MediaStream;

/** One voice session as its page sees it. Nothing here throws into the page, makes it wait or blocks it. */
export class VoiceTrace {
  /** With a promise, what comes before its answer is kept for it. One page load, one session: a reload needs another. */
  constructor(made: Made | Promise<Made>, options?: VoiceTraceOptions);

  readonly sessionId: string;
  readonly traceId: string;

  turnStart(turnId: string): void;
  turnComplete(turnId: string, fields?: TurnCompleteFields): void;
  toolCall(callId: string, name: string, args?: unknown, fields?: ToolCallFields): void;
  toolResult(callId: string, outcome?: ToolOutcome, fields?: ToolResultFields): void;
  transcript(role: Role, text: string, fields?: TranscriptFields): void;
  userSpeechStart(fields?: UserSpeechStartFields): void;
  userSpeechEnd(fields?: UserSpeechEndFields): void;
  agentSpeechStart(fields?: AgentSpeechStartFields): void;
  agentSpeechEnd(fields?: AgentSpeechEndFields): void;
  responseStart(fields?: ResponseStartFields): void;
  responseEnd(fields?: ResponseEndFields): void;
  interrupted(fields?: InterruptedFields): void;
  error(error: unknown, fields?: ErrorFields): void;
  mark(name: string, attributes?: Attributes): void;
  /** `reason` is `user_hangup` where none is given. */
  end(reason?: EndReason): void;

  /** The context of a tool call, or of the session, for the app's own backend. */
  traceparent(callId?: string): Promise<string>;
  /** `fetch`, with `traceparent` where the URL is of the page's own origin or of one in `propagateTo`. */
  fetch(url: RequestInfo | URL, init?: RequestInit, call?: { callId?: string }): Promise<Response>;

  /** Watches what the user hears; the returned function stops that. */
  audioOutput(target: Audible | (() => Audible | null | undefined)): () => void;
  /** Watches the user's microphone; the returned function stops that. */
  audioInput(stream: MediaStream | AudioNode | (() => MediaStream | AudioNode | null | undefined)): () => void;

  // For integrations: the provider modules use these

  /** `at`: the `performance.now()` of when it happened, if that was not now. */
  event(type: string, fields?: object, at?: number): void;
  /** One message of a provider's protocol, already reduced by its allow-list. */
  forward(provider: Provider, dir: Direction, message: object): void;
  /** Runs `run`; what it throws goes on the trace and not into the page. */
  quietly<T>(run: () => T): T | undefined;
  /** A connection to the provider is there. */
  opened(): void;
  /** It is gone: the session ends with this reason unless another one opens within five seconds. */
  closed(reason: EndReason): void;
  /** Something that ends the session, if nothing else has explained its end by then. */
  lost(reason: EndReason): void;
  /** Called just before the page goes away or the session ends: what is held back is forwarded then. What it answers
   * takes this back. */
  beforeEnd(before: () => void): () => void;
}
