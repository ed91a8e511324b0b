// The app of an OpenAI recording, over a WebSocket or a data channel.
import { traceOpenAIRealtime } from "/client/openai-realtime.js";
import { play, Provider } from "/play.js";

const isOpen = (channel) => new Promise((resolve) => channel.addEventListener("open", resolve, { once: true }));

async function websocket(trace, url, hear) {
  const socket = new WebSocket(url, ["realtime", "openai-insecure-api-key.none"]);
  traceOpenAIRealtime(trace, socket);
  socket.addEventListener("message", hear);
  await isOpen(socket);
  return { send: (message) => socket.send(JSON.stringify(message)), close: () => socket.close() };
}

async function connected(from, to) {
  const described = async (peer) => {
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") {
      await new Promise((resolve) => peer.addEventListener("icegatheringstatechange", resolve, { once: true }));
    }
    return peer.localDescription;
  };
  await to.setRemoteDescription(await described(from));
  await from.setRemoteDescription(await described(to));
}

/** Both ends are in this page; the other one plays the provider. */
async function data_channel(trace, url, hear, provider) {
  const [here, there] = [new RTCPeerConnection(), new RTCPeerConnection()];
  const channel = here.createDataChannel("oai-events");
  traceOpenAIRealtime(trace, channel);
  channel.addEventListener("message", hear);
  there.ondatachannel = ({ channel: other }) => {
    other.onmessage = ({ data }) => provider.heard(JSON.parse(data));
    const begin = () => provider.opened((message) => other.send(message));
    if (other.readyState === "open") begin();
    else other.onopen = begin;
  };
  const opened = isOpen(channel);
  await connected(here, there);
  await opened;
  return { send: (message) => channel.send(JSON.stringify(message)), close: () => here.close() };
}

export async function run(trace, steps, address, way) {
  const provider = new Provider(steps);
  const dial = { websocket, data_channel }[way];
  const connection = await play(steps, (_step, hear) => dial(trace, `ws://${address}`, hear, provider));
  trace.end("recording_ended");
  connection.close();
}
