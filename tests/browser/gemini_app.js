// The app of a Gemini recording: what was sent is said again through @google/genai.
import { traceGeminiLive } from "/client/gemini-live.js";
import { GoogleGenAI } from "/packages/google-genai.js";
import { kindOf, play } from "/play.js";

const camel = (key) => key.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const paramsOf = (said) => Object.fromEntries(Object.entries(said).map(([key, value]) => [camel(key), value]));

const SAYS = {
  clientContent: (session, { turnComplete = false, ...said }) => session.sendClientContent({ ...said, turnComplete }),
  realtimeInput(session, { mediaChunks, ...said }) {
    if (!mediaChunks) return session.sendRealtimeInput(said);
    for (const media of mediaChunks) session.sendRealtimeInput({ media });
  },
  toolResponse: (session, said) => session.sendToolResponse(said),
  setup() {}, // connect has sent it
};

export async function run(trace, steps, address, way, name) {
  const ai = new GoogleGenAI({ apiKey: "none", vertexai: name.includes("vertex"), httpOptions: { baseUrl: `http://${address}` } });
  const live = traceGeminiLive(trace, ai.live);
  const connection = await play(steps, async ({ setup }, hear) => {
    const { model, generationConfig, tools, ...config } = paramsOf(setup);
    const session = await live.connect({ model, config, callbacks: { onmessage: hear } });
    return {
      send: (message) => SAYS[kindOf(message)](session, paramsOf(Object.values(message)[0])),
      close: () => session.close(),
    };
  });
  trace.end("recording_ended");
  connection.close();
}
