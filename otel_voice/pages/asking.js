// The read API by fetch.

/** The receiver said no; the message is its sentence. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The answer's JSON. Throws Refused, also (status 0) when nobody answers, and AbortError when it was given up. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the receiver does not answer");
  });
  const said = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (!answer.ok) throw new Refused(answer.status, said?.error ?? `the receiver answered with ${answer.status}`);
  if (answer.status !== 204 && said === null) throw new Refused(answer.status, "the receiver's answer is no JSON");
  return said;
}
