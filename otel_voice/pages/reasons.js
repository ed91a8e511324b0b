// Why sessions ended, as bars that are buttons: each filters by its reason, and the one that is set lets go of it.

import { element } from "./elements.js";
import { words } from "./figures.js";
import { number } from "./format.js";

export class EndReasons {
  #list;
  #empty;
  #onFilter;

  constructor(figure, onFilter) {
    this.#list = figure.querySelector("ul");
    this.#empty = figure.querySelector(".empty");
    this.#onFilter = onFilter;
    this.#list.addEventListener("click", (event) => this.#clicked(event.target.closest("button")));
  }

  show(reasons, filters) {
    const most = Math.max(...reasons.map(([, count]) => count), 1);
    const focused = this.#list.querySelector("button:focus")?.dataset.reason;
    this.#empty.hidden = reasons.length > 0;
    this.#list.replaceChildren(...reasons.map(([reason, count]) => bar(reason, count, most, filters)));
    const buttons = [...this.#list.querySelectorAll("button")];
    buttons.find((button) => button.dataset.reason === focused)?.focus();
  }

  #clicked(button) {
    if (!button) return;
    const isSet = button.getAttribute("aria-pressed") === "true";
    const { reason } = button.dataset;
    // A session that has not ended has no reason to filter by, but it has its status.
    this.#onFilter(reason ? { end_reason: isSet ? "" : reason } : { status: isSet ? "" : "open" });
  }
}

function bar(reason, count, most, filters) {
  const isSet = reason ? filters.end_reason === reason : filters.status === "open";
  const length = element("span", { class: "length" });
  length.style.inlineSize = `${(count / most) * 100}%`;
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", "data-reason": reason ?? "", "aria-pressed": String(isSet) },
      element("span", { class: "name" }, reason ? words(reason) : "not ended"),
      element("span", { class: "track" }, length),
      element("span", { class: "number" }, number(count)),
    ),
  );
}
