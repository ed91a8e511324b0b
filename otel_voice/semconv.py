"""Span names and attribute keys; constants only.

`gen_ai.*` and `session.id`, `user.id` are OpenTelemetry's; `langfuse.*` is what Langfuse needs beside them;
`voice.*` is for what no convention has yet.
"""

from typing import Final

# Span names; a turn, a response and a tool add whose they are.
SESSION = "voice_session"
TURN = "invoke_agent"
RESPONSE = "generate_content"
TOOL = "execute_tool"
USER_SPEECH: Final = "user_speech"
AGENT_SPEECH: Final = "agent_speech"

# Grouping
SESSION_ID = "session.id"
PREVIOUS_SESSION_ID = "session.previous_id"
USER_ID = "user.id"
CONVERSATION_ID = "gen_ai.conversation.id"

# Generative AI
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
AGENT_END_REASON = "gen_ai.agent.invocation.end_reason"
REALTIME_SESSION_ID = "gen_ai.realtime_session.id"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
OUTPUT_TYPE = "gen_ai.output.type"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
ERROR_TYPE = "error.type"

INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
# The published constants do not have the modality keys yet.
USAGE_KEYS = {
    "input_tokens": INPUT_TOKENS,
    "output_tokens": OUTPUT_TOKENS,
    "input_text_tokens": "gen_ai.usage.text.input_tokens",
    "input_audio_tokens": "gen_ai.usage.audio.input_tokens",
    "input_image_tokens": "gen_ai.usage.image.input_tokens",
    "output_text_tokens": "gen_ai.usage.text.output_tokens",
    "output_audio_tokens": "gen_ai.usage.audio.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cached_text_tokens": "gen_ai.usage.text.cache_read.input_tokens",
    "cached_audio_tokens": "gen_ai.usage.audio.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}

# Langfuse
OBSERVATION_TYPE = "langfuse.observation.type"
OBSERVATION_INPUT = "langfuse.observation.input"
OBSERVATION_OUTPUT = "langfuse.observation.output"
OBSERVATION_LEVEL = "langfuse.observation.level"
OBSERVATION_STATUS_MESSAGE = "langfuse.observation.status_message"
OBSERVATION_USAGE = "langfuse.observation.usage_details"
COMPLETION_START = "langfuse.observation.completion_start_time"
TRACE_NAME = "langfuse.trace.name"
TRACE_TAGS = "langfuse.trace.tags"
TRACE_METADATA = "langfuse.trace.metadata"
ENVIRONMENT = "langfuse.environment"

# Voice
SESSION_END_REASON = "voice.session.end_reason"
TURN_COUNT = "voice.turn.count"
INTERRUPTION_COUNT = "voice.interruption.count"
TOOL_CALL_COUNT = "voice.tool_call.count"
TOOL_ERROR_COUNT = "voice.tool_call.error_count"
TOOL_CANCELLED_COUNT = "voice.tool_call.cancelled_count"
FALSE_START_COUNT = "voice.false_start.count"
LATENCY = "voice.user_bot_latency"
LATENCY_P50 = "voice.user_bot_latency.p50"
LATENCY_P95 = "voice.user_bot_latency.p95"
LATENCY_MAX = "voice.user_bot_latency.max"
EVENTS_RECEIVED = "voice.events.received"
EVENTS_LOST = "voice.events.lost"
EVENTS_CONFLICTING = "voice.events.conflicting"
CLOCK_OFFSET = "voice.clock.offset"
CLOCK_UNCERTAINTY = "voice.clock.uncertainty"
CALLER = "voice.caller.traceparent"
CUT = "voice.conversation.cut"
TURN_NUMBER = "voice.turn.number"
INTERRUPTION_SOURCE = "voice.interruption.source"
PLAYOUT_POSITION = "voice.playout.position"
MEASURED_BY = "voice.speech.measured_by"
HEARD = "voice.speech.heard"
EVENT_LATE = "voice.event.late"
MARK = "voice.mark"

# What people said and what tools saw: sensitive. OTEL_VOICE_CAPTURE_CONTENT=off leaves these out, and so does the
# collector with OTEL_VOICE_COLLECTOR_REDACT=true; both put NOT_CAPTURED in place of two more: the texts among a mark's
# attributes (`voice.mark.*`), and a span's status message unless it is NO_RESULT, which quotes nobody.
CONTENT_KEYS = frozenset(
    {
        INPUT_MESSAGES,
        OUTPUT_MESSAGES,
        SYSTEM_INSTRUCTIONS,
        TOOL_ARGUMENTS,
        TOOL_RESULT,
        OBSERVATION_INPUT,
        OBSERVATION_OUTPUT,
    }
)
NOT_CAPTURED = "[not captured]"
NO_RESULT = "no result came before the session ended"
