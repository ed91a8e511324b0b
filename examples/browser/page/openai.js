// A call to OpenAI Realtime over WebRTC, which carries the sound both ways.
import { traceOpenAIRealtime } from "./client/openai-realtime.js";
import { run, TOOLS } from "./tools.js";

export async function start({ provider, trace, show }) {
  const connection = new RTCPeerConnection();
  const channel = connection.createDataChannel("oai-events");
  traceOpenAIRealtime(trace, channel);
  const send = (event) => channel.send(JSON.stringify(event));

  const audio = new Audio();
  audio.autoplay = true;
  connection.ontrack = ({ streams: [stream] }) => {
    audio.srcObject = stream;
    trace.audioOutput(stream);
  };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  trace.audioInput(stream);
  show.microphone("Microphone on");
  for (const track of stream.getTracks()) connection.addTrack(track, stream);

  channel.onmessage = ({ data }) => hear(JSON.parse(data));
  channel.onclose = () => {
    stop();
    show.over("The agent hung up.");
  };
  await connection.setLocalDescription();
  await connection.setRemoteDescription({ type: "answer", sdp: await answered(provider, connection.localDescription.sdp) });
  await new Promise((opened) => channel.addEventListener("open", opened));
  send({ type: "session.update", session: SESSION });

  function hear(event) {
    if (event.type === "output_audio_buffer.started") show.speaking(true);
    if (["output_audio_buffer.stopped", "output_audio_buffer.cleared"].includes(event.type)) show.speaking(false);
    if (event.type === "output_audio_buffer.cleared") show.interrupted();
    if (event.type === "response.output_audio_transcript.delta") show.said("agent", event.delta);
    if (event.type === "conversation.item.input_audio_transcription.completed") show.said("user", event.transcript);
    if (event.type === "response.function_call_arguments.done") answer(event);
  }

  async function answer({ call_id, name, arguments: json }) {
    const args = JSON.parse(json);
    show.note(`${name}(${Object.values(args).join(", ")})`);
    const output = JSON.stringify(await run(trace, call_id, name, args));
    send({ type: "conversation.item.create", item: { type: "function_call_output", call_id, output } });
    send({ type: "response.create" });
  }

  function stop() {
    for (const track of stream.getTracks()) track.stop();
    audio.srcObject = null;
  }

  return {
    type(text) {
      const content = [{ type: "input_text", text }];
      send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
      send({ type: "response.create" });
    },
    hangUp() {
      trace.end("user_hangup");
      connection.close();
      stop();
    },
  };
}

const SESSION = {
  type: "realtime",
  instructions: "You are on the phone. Be brief, and look the weather up when you are asked for it.",
  audio: { input: { transcription: { model: "gpt-4o-mini-transcribe" } } },
  tools: TOOLS.map(({ name, description, parametersJsonSchema }) => {
    return { type: "function", name, description, parameters: parametersJsonSchema };
  }),
};

async function answered(provider, offer) {
  const answer = await fetch("https://api.openai.com/v1/realtime/calls", {
    method: "POST",
    headers: { authorization: `Bearer ${provider.token}`, "content-type": "application/sdp" },
    body: offer,
  });
  if (!answer.ok) throw new Error(`The provider answered ${answer.status}.`);
  return answer.text();
}
