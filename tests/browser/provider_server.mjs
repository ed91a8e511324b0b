// Plays the provider's side of recordings to clients over WebSocket. POST /NAME brings a recording's steps, a client
// connects to ws://…/NAME and whatever follows, GET /NAME tells how far it came and what was said that is not in it.
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { WebSocketServer } from "ws";
import { Provider } from "./play.js";

const plays = new Map();
const nameOf = (request) => request.url.split("/")[1];

const server = createServer(async (request, response) => {
  const name = nameOf(request);
  if (request.method === "POST") plays.set(name, new Provider(JSON.parse(await text(request))));
  const { at, steps, unexpected } = plays.get(name) ?? { at: 0, steps: [], unexpected: [] };
  response.end(JSON.stringify({ left: steps.slice(at), unexpected }));
});

const handleProtocols = (offered) => offered.values().next().value ?? false;
new WebSocketServer({ server, handleProtocols }).on("connection", (socket, request) => {
  const provider = plays.get(nameOf(request));
  // Gemini's frames are binary, OpenAI's are text.
  const isBinary = request.url.includes("//ws/");
  socket.on("message", (data) => provider.heard(JSON.parse(data)));
  provider.opened((message) => socket.send(message, { binary: isBinary }));
});

server.listen(Number(process.argv[2]), "127.0.0.1");
