// A call to Gemini Live, or to the scripted agent, which speaks the same protocol.
import { GoogleGenAI, Modality } from "./genai.js";
import { traceGeminiLive } from "./client/gemini-live.js";
import { Microphone } from "./microphone.js";
import { Player } from "./player.js";
import { run, TOOLS } from "./tools.js";

export async function start({ provider, trace, show }) {
  const httpOptions = { apiVersion: "v1alpha", baseUrl: provider.base_url };
  const ai = new GoogleGenAI({ apiKey: provider.token, httpOptions });
  const player = new Player((yes) => show.speaking(yes));
  const microphone = new Microphone();

  const session = await traceGeminiLive(trace, ai.live).connect({
    model: provider.model,
    config: {
      responseModalities: [Modality.AUDIO],
      inputAudioTranscription: {},
      outputAudioTranscription: {},
      systemInstruction: "You are on the phone. Be brief, and look the weather up when you are asked for it.",
      tools: [{ functionDeclarations: TOOLS }],
    },
    callbacks: {
      onmessage: (message) => {
        if (message.serverContent) hear(message.serverContent);
        for (const asked of message.toolCall?.functionCalls ?? []) answer(asked);
      },
      onclose: ({ reason }) => {
        stop();
        show.over(reason || "The agent hung up.");
      },
    },
  });
  trace.audioOutput(() => player.gain);
  microphone.open(session).then(
    (stream) => {
      if (!stream) return;
      trace.audioInput(stream);
      show.microphone("Microphone on");
    },
    (error) => show.microphone(`No microphone (${error.message}): type instead`),
  );
  session.sendRealtimeInput({ text: "(the caller has joined)" });

  function hear({ modelTurn, interrupted, inputTranscription, outputTranscription }) {
    if (interrupted) {
      player.stop();
      show.interrupted();
    }
    for (const { inlineData } of modelTurn?.parts ?? []) if (inlineData) player.play(inlineData.data);
    if (inputTranscription?.text) show.said("user", inputTranscription.text);
    if (outputTranscription?.text) show.said("agent", outputTranscription.text);
  }

  async function answer({ id, name, args }) {
    show.note(`${name}(${Object.values(args).join(", ")})`);
    const response = await run(trace, id, name, args);
    session.sendToolResponse({ functionResponses: [{ id, name, response }] });
  }

  function stop() {
    microphone.close();
    player.close();
  }

  return {
    type: (text) => session.sendRealtimeInput({ text }),
    hangUp() {
      trace.end("user_hangup");
      session.close();
      stop();
    },
  };
}
