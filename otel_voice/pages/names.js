// The attribute keys that the page reads; otel_voice/semconv.py writes them.

export const SESSION = "voice_session";
export const USER_SPEECH = "user_speech";
export const AGENT_SPEECH = "agent_speech";

export const OBSERVATION_TYPE = "langfuse.observation.type";
export const OPERATION = "gen_ai.operation.name";
export const FIRST_OUTPUT = "langfuse.observation.completion_start_time";
export const INPUT = "gen_ai.input.messages";
export const OUTPUT = "gen_ai.output.messages";
export const REQUEST_MODEL = "gen_ai.request.model";
export const RESPONSE_MODEL = "gen_ai.response.model";
export const PROVIDER = "gen_ai.provider.name";
export const AGENT = "gen_ai.agent.name";
export const USER = "user.id";
export const SESSION_ID = "session.id";
export const PREVIOUS_SESSION = "session.previous_id";
export const TOOL_NAME = "gen_ai.tool.name";
export const CALL_ID = "gen_ai.tool.call.id";
export const ARGUMENTS = "gen_ai.tool.call.arguments";
export const RESULT = "gen_ai.tool.call.result";
export const ERROR_TYPE = "error.type";
export const TURN_NUMBER = "voice.turn.number";
export const TURN_END = "gen_ai.agent.invocation.end_reason";
export const LATENCY = "voice.user_bot_latency";
export const INTERRUPTED_BY = "voice.interruption.source";
export const PLAYOUT = "voice.playout.position";
export const HEARD = "voice.speech.heard";
export const MEASURED_BY = "voice.speech.measured_by";
export const LATE = "voice.event.late";
export const END_REASON = "voice.session.end_reason";
export const CLOCK_OFFSET = "voice.clock.offset";
export const CLOCK_UNCERTAINTY = "voice.clock.uncertainty";

export const COUNTS = {
  turn_count: "voice.turn.count",
  interruption_count: "voice.interruption.count",
  tool_call_count: "voice.tool_call.count",
  tool_error_count: "voice.tool_call.error_count",
  tool_cancelled_count: "voice.tool_call.cancelled_count",
  false_start_count: "voice.false_start.count",
  events_received: "voice.events.received",
  events_lost: "voice.events.lost",
  events_conflicting: "voice.events.conflicting",
};

export const TOKENS = {
  input_tokens: "gen_ai.usage.input_tokens",
  output_tokens: "gen_ai.usage.output_tokens",
  input_text_tokens: "gen_ai.usage.text.input_tokens",
  input_audio_tokens: "gen_ai.usage.audio.input_tokens",
  input_image_tokens: "gen_ai.usage.image.input_tokens",
  output_text_tokens: "gen_ai.usage.text.output_tokens",
  output_audio_tokens: "gen_ai.usage.audio.output_tokens",
  cached_tokens: "gen_ai.usage.cache_read.input_tokens",
  reasoning_tokens: "gen_ai.usage.reasoning.output_tokens",
};
