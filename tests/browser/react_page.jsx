// A small app on the hooks, under StrictMode. `show(name)` mounts one of its parts, `show()` unmounts it.
import { GoogleGenAI } from "@google/genai";
import { useGeminiLiveTrace, useVoiceTrace } from "otel-voice/react";
import { StrictMode, useEffect, useMemo } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";

window.token = async () => (await fetch("/api/token", { method: "POST" })).json();

/** The client of Google's sample apps, in small. */
class GenAILiveClient {
  constructor(options) {
    this.client = new GoogleGenAI(options);
  }

  async connect(model, config) {
    this.session = await this.client.live.connect({ model, config, callbacks: { onmessage: window.heard } });
  }

  disconnect() {
    this.session?.close();
    this.session = undefined;
  }
}

function Panel({ hook }) {
  useEffect(() => {
    window.hook = hook;
  });
  return (
    <>
      <button onClick={hook.start}>Start</button>
      <button onClick={hook.stop}>Stop</button>
      <output>{hook.trace?.sessionId ?? "none"}</output>
    </>
  );
}

function Plain({ starts }) {
  const hook = useVoiceTrace({ token: () => window.token() });
  const { start } = hook;
  useEffect(() => {
    if (starts) start();
  }, [start, starts]);
  return <Panel hook={hook} />;
}

function Gemini({ apiKey }) {
  const client = useMemo(() => new GenAILiveClient({ apiKey, httpOptions: { baseUrl: location.origin } }), [apiKey]);
  const hook = useGeminiLiveTrace(client, { token: () => window.token() });
  useEffect(() => {
    window.client = client;
    return () => client.disconnect();
  }, [client]);
  return <Panel hook={hook} />;
}

const parts = { plain: Plain, gemini: Gemini };
const root = createRoot(document.getElementById("root"));

window.heard = () => {};
window.show = (name, props) => {
  const Part = parts[name];
  flushSync(() => root.render(<StrictMode>{Part && <Part {...props} />}</StrictMode>));
};
window.ready = true;
