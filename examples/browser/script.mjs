// What the scripted agent says.
/** What the page sends when a call begins: Gemini speaks only when it is spoken to. */
const JOINED = "(the caller has joined)";

const GREETING =
  "Hello. I am a scripted agent with a real voice. Speak, or type, whenever you like: you may interrupt me at any time. " +
  "Ask me for the weather in Lisbon, for example.";

const LONG =
  "Now I tell you something long, so that you can interrupt me. A voice call is made of turns, and each turn becomes a " +
  "span. Inside of it are your speech, my answer, the tools that I ask for, and what you really heard of me. When you " +
  "interrupt me, the trace says so, and it says after how many seconds. Go on, interrupt me. I have nothing more to say.";

const DEAF = "I noticed that you spoke, but I am only a script, and do not understand a word of it. The trace has your turn all the same.";

const GOODBYE = "You are welcome. Hang up when you like, and then look at the trace.";

/** One call's answers: `{ say }`, or `{ tool, args, say }` where `say` is made of the tool's result. */
export class Script {
  #spoken = [weather("Lisbon"), { say: DEAF }, { say: LONG }];

  /** To a text, or, after speech, to null. */
  answer(text) {
    if (text === null) {
      this.#spoken.push(this.#spoken.shift());
      return this.#spoken.at(-1);
    }
    if (text === JOINED) return { say: GREETING };
    const asked = /weather(?:.* in ([\p{L} ]+))?/iu.exec(text);
    if (asked) return weather(asked[1]?.trim() || "Lisbon");
    if (/thank|bye/i.test(text)) return { say: GOODBYE };
    return { say: /long|story|tell/i.test(text) ? LONG : `You typed: ${text}. Ask me for the weather, or for a long story.` };
  }
}

function weather(city) {
  const say = (result) =>
    result?.degrees === undefined
      ? `I could not find out the weather in ${city}.`
      : `In ${result.city} it is ${result.sky}, with ${result.degrees} degrees and a light wind from the west. Anything else?`;
  return { tool: "get_weather", args: { city }, say };
}
