// The app of an OpenAI recording with @openai/agents-realtime, whose session runs the tools and sends their results.
import { traceOpenAIRealtime } from "/client/openai-realtime.js";
import { backgroundResult, OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "/packages/openai-agents-realtime.js";
import { play } from "/play.js";

/** The tools that a recording calls; each gives its result when the recording does. */
function toolsOf(steps, results) {
  const names = new Set(steps.map(({ message }) => message?.item?.name).filter(Boolean));
  const execute = async (_given, _context, { toolCall }) =>
    backgroundResult(await new Promise((resolve) => results.set(toolCall.callId, resolve))); // the app asks for an answer
  const parameters = { type: "object", properties: {}, required: [], additionalProperties: true };
  return [...names].map((name) => tool({ name, description: name, parameters, strict: false, execute }));
}

export async function run(trace, steps, address) {
  const results = new Map();
  const agent = new RealtimeAgent({ name: "concierge", tools: toolsOf(steps, results) });
  const connection = await play(steps, async (_step, hear) => {
    const transport = new OpenAIRealtimeWebSocket({ url: `ws://${address}`, useInsecureApiKey: true });
    const session = new RealtimeSession(agent, {
      transport,
      tracingDisabled: true,
      config: { audio: { input: { turnDetection: { type: "server_vad", interruptResponse: true } } } },
    });
    session.on("error", () => {}); // the provider's, which the recordings hold
    traceOpenAIRealtime(trace, session);
    transport.on("*", hear);
    await session.connect({ apiKey: "none" });
    const send = (message) => {
      const { type, call_id, output } = message.item ?? {};
      const give = type === "function_call_output" && results.get(call_id);
      if (!give) return transport.sendEvent(message);
      results.delete(call_id);
      return give(output);
    };
    return { send, close: () => session.close() };
  });
  trace.end("recording_ended");
  connection.close();
}
