// A recording played again by two sides. Its steps are frames, {dir: "sent" | "received", message}, and {dir: "open"}
// where a connection begins. Each side waits for what the other one says next.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a step says, whatever spelling its sender has chosen. */
export const kindOf = (message) =>
  message.type ?? Object.keys(message)[0].replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** The provider's side: says its frames over the connection that is there, and notes what nobody said in the recording. */
export class Provider {
  at = 0;
  unexpected = [];
  #send;

  constructor(steps) {
    this.steps = steps;
  }

  opened(send) {
    this.#send = send;
    return this.#take((step) => step.dir === "open", "open");
  }

  heard(message) {
    return this.#take((step) => step.dir === "sent" && kindOf(step.message) === kindOf(message), kindOf(message));
  }

  async #take(fits, kind) {
    if (!this.steps[this.at] || !fits(this.steps[this.at])) return this.unexpected.push(kind);
    this.at += 1;
    for (let step; (step = this.steps[this.at])?.dir === "received"; this.at += 1) {
      await pause(step.after);
      this.#send(JSON.stringify(step.message));
    }
  }
}

/** The app's side: `dial(step, hear)` connects, and gives `send(message)` and `close()`; `hear` is told each message. */
export async function play(steps, dial) {
  let connection;
  let heard = 0;
  let wake = () => {};
  const hear = () => {
    heard += 1;
    wake();
  };
  const until = async (count) => {
    while (heard < count) await new Promise((resolve) => (wake = resolve));
  };
  let said = 0;
  for (const step of steps) {
    if (step.dir === "received") await until((said += 1));
    else await pause(step.after ?? 0);
    if (step.dir === "open") {
      connection?.close();
      connection = await dial(step, hear);
    } else if (step.dir === "sent") await connection.send(step.message);
  }
  return connection;
}
