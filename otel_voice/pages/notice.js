// The line over the page: what went wrong, and what can be done about it.

import { ask } from "./asking.js";
import { element, fill } from "./elements.js";

export class Notice {
  #parent;

  constructor(parent) {
    this.#parent = parent;
  }

  say(text, kind = "") {
    if (this.#parent.textContent === text) return;
    fill(this.#parent, element("p", { class: `notice ${kind}` }, text));
  }

  clear() {
    if (this.#parent.hasChildNodes()) fill(this.#parent);
  }

  /** The viewer's token is asked for; `onIn` once it was the right one. */
  askToken(onIn) {
    const said = element("span", { role: "alert" });
    const input = element("input", {
      type: "password",
      name: "token",
      required: true,
      autocomplete: "current-password",
      "aria-label": "Token",
    });
    const form = element(
      "form",
      {},
      "The viewer’s token (OTEL_VOICE_VIEWER_TOKEN):",
      input,
      element("button", { class: "primary" }, "Open"),
      said,
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        await ask("/v1/viewer/login", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ token: input.value }),
        });
        this.clear();
        onIn();
      } catch (error) {
        said.textContent = error.status === 401 || error.status === 403 ? "That is not the token." : error.message;
      }
    });
    fill(this.#parent, element("div", { class: "notice" }, form));
    input.focus();
  }
}
