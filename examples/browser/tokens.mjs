// What a page needs for a call: the provider's ephemeral token, and a token of the receiver for the trace.
const { env } = process;
export const RECEIVER = env.OTEL_VOICE_URL ?? "http://127.0.0.1:8770";
export const HOW_TO_START = `No receiver answers at ${RECEIVER}: start it with \`otel-voice serve\`, and calls are traced.`;

export const provider = env.GEMINI_API_KEY ? gemini : env.OPENAI_API_KEY ? openai : scripted;

/** null while the receiver cannot be reached: a call must not fail because its trace does. */
export async function traced(session) {
  const headers = env.OTEL_VOICE_API_KEY ? { authorization: `Bearer ${env.OTEL_VOICE_API_KEY}` } : {};
  try {
    return await post(`${RECEIVER}/v1/sessions`, headers, session);
  } catch (error) {
    console.warn(`This call is not traced. ${error.cause ? HOW_TO_START : error.message}`);
    return null;
  }
}

async function scripted(origin) {
  return { name: "gemini-live", token: "none-needed", model: "scripted-agent", base_url: origin };
}

// https://ai.google.dev/gemini-api/docs/ephemeral-tokens
async function gemini() {
  const base = env.GEMINI_BASE_URL ?? "https://generativelanguage.googleapis.com";
  const { name } = await post(`${base}/v1alpha/auth_tokens`, { "x-goog-api-key": env.GEMINI_API_KEY }, { uses: 1 });
  return { name: "gemini-live", token: name, model: env.MODEL ?? "gemini-3.8-live" };
}

// https://developers.openai.com/api/docs/guides/realtime-webrtc
async function openai() {
  const base = env.OPENAI_BASE_URL ?? "https://api.openai.com/v1";
  const model = env.MODEL ?? "gpt-realtime";
  const headers = { authorization: `Bearer ${env.OPENAI_API_KEY}` };
  const { value } = await post(`${base}/realtime/client_secrets`, headers, { session: { type: "realtime", model } });
  return { name: "openai-realtime", token: value, model };
}

async function post(url, headers, body) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) throw new Error(`${new URL(url).host} answered ${answer.status}: ${await answer.text()}`);
  return answer.json();
}
