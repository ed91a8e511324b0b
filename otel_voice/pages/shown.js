// What the page shows in the list's place: the list, why there is none, the receiver's refusal, or the way in.

import { ask } from "./asking.js";

const UNAUTHORIZED = 401;
const STATES = ["sessions", "none-yet", "unmatched", "refused", "locked"];

export class Shown {
  #main;

  constructor(main, { onAgain, onClear }) {
    this.#main = main;
    main.querySelector("#refused button").addEventListener("click", onAgain);
    for (const each of main.querySelectorAll("button.clear")) each.addEventListener("click", onClear);
    main.querySelector("#locked form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter(event.target.elements.token.value);
    });
  }

  list() {
    this.#turnTo("sessions");
  }

  unmatched() {
    this.#turnTo("unmatched");
  }

  noneYet() {
    for (const each of this.#main.querySelectorAll(".origin")) each.textContent = location.origin;
    this.#turnTo("none-yet");
  }

  refusal({ status, message }) {
    if (status === UNAUTHORIZED) return this.#turnTo("locked");
    this.#part("refused").querySelector("p").textContent = message;
    this.#turnTo("refused");
  }

  /** A line over the list, which stays; "" takes it away. */
  notice(text) {
    const notice = this.#part("notice");
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  }

  get isLocked() {
    return this.#main.dataset.shown === "locked";
  }

  async #enter(token) {
    try {
      const body = JSON.stringify({ token });
      await ask("/v1/viewer/login", { method: "POST", headers: { "content-type": "application/json" }, body });
      location.reload();
    } catch (error) {
      if (error.status === undefined) throw error;
      this.#part("locked").querySelector("[role=alert]").textContent = error.message;
    }
  }

  #turnTo(state) {
    for (const each of STATES) this.#part(each).hidden = each !== state;
    this.#main.dataset.shown = state;
  }

  #part(id) {
    return this.#main.querySelector(`#${id}`);
  }
}
