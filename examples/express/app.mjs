// A voice app's backend on Express: POST /api/token gives its page what a call and its trace need.
// Run it with `npm install && GEMINI_API_KEY=… npm start`, or with OPENAI_API_KEY.
import express from "express";

const { env } = process;
const RECEIVER = env.OTEL_VOICE_URL ?? "http://127.0.0.1:8770";
const GEMINI = env.GEMINI_BASE_URL ?? "https://generativelanguage.googleapis.com";
const OPENAI = env.OPENAI_BASE_URL ?? "https://api.openai.com/v1";

const app = express();

/** Your app's own check of who asks, such as its session cookie; here, what a proxy in front has checked. */
function userOf(request) {
  return request.get("x-user");
}

app.post("/api/token", async (request, response) => {
  const user = userOf(request);
  if (!user) return response.status(401).json({ error: "log in first" });
  const provider = await (env.GEMINI_API_KEY ? gemini() : openai());
  response.json({ trace: await traced(user), provider });
});

/** null while the receiver cannot be reached: a call must not fail because its trace does. */
async function traced(user) {
  const headers = env.OTEL_VOICE_API_KEY ? { authorization: `Bearer ${env.OTEL_VOICE_API_KEY}` } : {};
  const session = { user_id: user, agent_name: "concierge" };
  return post(`${RECEIVER}/v1/sessions`, headers, session, 2_000).catch(() => null);
}

async function gemini() {
  const { name } = await post(`${GEMINI}/v1alpha/auth_tokens`, { "x-goog-api-key": env.GEMINI_API_KEY }, { uses: 1 });
  return { name: "gemini-live", token: name };
}

async function openai() {
  const headers = { authorization: `Bearer ${env.OPENAI_API_KEY}` };
  const session = { session: { type: "realtime", model: "gpt-realtime" } };
  const { value } = await post(`${OPENAI}/realtime/client_secrets`, headers, session);
  return { name: "openai-realtime", token: value };
}

async function post(url, headers, body, timeout = 10_000) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(timeout),
  });
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return answer.json();
}

app.listen(env.PORT ?? 3000, "127.0.0.1");
