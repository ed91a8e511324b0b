// The page: a button, a transcript and a text box around one call at a time.
import { VoiceTrace } from "./client/otel-voice.js";
import * as gemini from "./gemini.js";
import * as openai from "./openai.js";

const PROVIDERS = { "gemini-live": gemini, "openai-realtime": openai };
const at = (id) => document.getElementById(id);
let call = null;

async function start() {
  at("call").disabled = true;
  at("transcript").replaceChildren();
  at("trace").hidden = true;
  show.state("connecting", "Connecting…");
  let trace = null;
  try {
    const { trace: made, provider } = await token();
    trace = new VoiceTrace(made);
    if (made) showTrace(made);
    else show.note("No receiver answers: this call is not traced. `otel-voice serve` starts one.");
    call = await PROVIDERS[provider.name].start({ provider, trace, show });
    show.state("listening", "Listening");
    calling(true);
  } catch (error) {
    trace?.error(error);
    trace?.end("error");
    show.state("off", "Not connected");
    show.note(error.message);
  }
  at("call").disabled = false;
}

async function token() {
  const answer = await fetch("/api/token", { method: "POST" }).catch(() => {
    throw new Error("This app's own server does not answer.");
  });
  const given = await answer.json();
  if (!answer.ok) throw new Error(given.error);
  return given;
}

function hangUp() {
  call.hangUp();
  over("You hung up.");
}

function over(why) {
  if (call === null) return;
  call = null;
  calling(false);
  show.state("off", "Not connected");
  show.microphone("Microphone off");
  show.note(why);
}

function calling(yes) {
  at("call").textContent = yes ? "Hang up" : "Start";
  at("call").toggleAttribute("data-calling", yes);
  for (const control of at("typed").elements) control.disabled = !yes;
}

function showTrace({ session_id, events_url }) {
  at("session").textContent = session_id;
  at("show").textContent = `otel-voice show ${session_id}`;
  at("spans").href = events_url.replace(/events$/, "spans");
  at("trace").hidden = false;
}

/** What a provider's module tells the page. */
const show = {
  state(state, words) {
    at("state").dataset.state = state;
    at("state").textContent = words;
  },
  microphone(words) {
    at("microphone").textContent = words;
  },
  speaking(yes) {
    if (call) show.state(yes ? "speaking" : "listening", yes ? "The agent speaks" : "Listening");
  },
  /** A piece of a transcript; pieces of one role that follow each other are one line. */
  said(role, text) {
    const last = at("transcript").lastElementChild;
    if (last?.className === role) last.textContent += text;
    else line(role, text);
    scroll();
  },
  interrupted() {
    [...at("transcript").querySelectorAll(".agent")].at(-1)?.classList.add("cut");
  },
  note(text) {
    line("note", text);
  },
  over,
};

function line(role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  at("transcript").append(item);
  scroll();
}

function scroll() {
  at("transcript").scrollTop = at("transcript").scrollHeight;
}

at("call").addEventListener("click", () => (call ? hangUp() : start()));
at("typed").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || !call) return;
  at("text").value = "";
  line("user", text);
  call.type(text);
});
