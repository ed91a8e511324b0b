// The example app's backend: the page, a token for each call, and the tool that the agent asks for.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

import { build } from "esbuild";
import { WebSocketServer } from "ws";

import { HOW_TO_START, provider, RECEIVER, traced } from "./tokens.mjs";

const PORT = Number(process.env.PORT ?? 8780);
// Pages of other origins could use tokens up, which may cost money.
const ORIGINS = [`http://127.0.0.1:${PORT}`, `http://localhost:${PORT}`];
// As an app of yours would serve it, from the npm package: a call must not need the receiver.
const CLIENT = new URL("../../otel_voice/browser/", import.meta.url);
const TYPES = { html: "text/html; charset=utf-8", css: "text/css", js: "text/javascript" };
const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  `connect-src 'self' ${RECEIVER} wss://generativelanguage.googleapis.com https://api.openai.com`,
  "style-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const genai = await bundled('export { GoogleGenAI, Modality } from "@google/genai/web"');
const server = createServer((request, response) => answer(request, response).catch((error) => failed(response, error)));

async function answer(request, response) {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const asked = `${request.method} ${pathname}`;
  if (asked === "POST /api/token") return json(response, ...(await token(request)));
  if (asked === "GET /api/weather") return json(response, 200, weather(searchParams.get("city"), request.headers));
  if (asked === "GET /genai.js") return send(response, 200, TYPES.js, genai);
  const [, client, name] = /^GET \/(client\/)?([\w-]+\.(?:html|css|js))?$/.exec(asked) ?? [];
  const folder = client ? CLIENT : new URL("page/", import.meta.url);
  const file = name ?? (pathname === "/" ? "index.html" : null);
  const found = file && (await readFile(new URL(file, folder)).catch(() => null));
  return found ? send(response, 200, TYPES[file.split(".").at(-1)], found) : send(response, 404, "text/plain", "not here\n");
}

async function token(request) {
  const { origin } = request.headers;
  if (!ORIGINS.includes(origin)) return [403, { error: "only this app's own page gets tokens" }];
  const session = { user_id: userOf(request), agent_name: "weather-example" };
  const [trace, given] = await Promise.all([traced(session), provider(origin)]);
  return [200, { trace, provider: given }];
}

/** Where your app looks at its own login. */
function userOf(request) {
  return "example-user";
}

function weather(city, headers) {
  console.log(`get_weather(${city}), traceparent: ${headers.traceparent ?? "none"}`);
  const number = [...city].reduce((sum, letter) => sum + letter.codePointAt(0), 0);
  return { city, sky: ["sunny", "cloudy", "rainy"][number % 3], degrees: 10 + (number % 20) };
}

function json(response, status, value) {
  send(response, status, "application/json", JSON.stringify(value));
}

function send(response, status, type, body) {
  const headers = { "content-type": type, "content-security-policy": CSP, "x-content-type-options": "nosniff" };
  response.writeHead(status, { ...headers, "cache-control": "no-store" }).end(body);
}

function failed(response, error) {
  console.error(error.message);
  json(response, 502, { error: error.message });
}

async function bundled(contents) {
  const stdin = { contents, resolveDir: import.meta.dirname };
  const { outputFiles } = await build({ stdin, bundle: true, format: "esm", minify: true, write: false });
  return outputFiles[0].contents;
}

if (provider.name === "scripted") {
  const { Agent } = await import("./agent.mjs");
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 2 ** 20 });
  server.on("upgrade", (request, socket, head) => {
    if (!ORIGINS.includes(request.headers.origin)) return socket.destroy();
    sockets.handleUpgrade(request, socket, head, (connection) => new Agent(connection));
  });
}

server.on("error", (error) => {
  console.error(error.code === "EADDRINUSE" ? `Port ${PORT} is taken: name another one by PORT.` : error.message);
  process.exit(1);
});
server.listen(PORT, "127.0.0.1", async () => {
  console.log(`Open ${ORIGINS[0]} and talk (${provider.name} agent).`);
  await fetch(`${RECEIVER}/readyz`).catch(() => console.log(HOW_TO_START));
});
