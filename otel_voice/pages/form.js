// The search box, the fields of the filters, and the chips of those that are set.

import { element } from "./elements.js";
import { FILTERS, chipText, shownIn, typedIn } from "./filters.js";

const PAUSE_MS = 250;

export class FilterForm {
  #form;
  #chips;
  #onChange;
  #timer = 0;
  #typingIn = null;

  /** `onChange(values, goesOn)`: what was asked for; `goesOn` when it continues what was typed before. */
  constructor(form, chips, onChange) {
    this.#form = form;
    this.#chips = chips;
    this.#onChange = onChange;
    form.addEventListener("input", (event) => this.#typed(event.target));
    form.addEventListener("change", (event) => this.#settled(event.target));
    form.addEventListener("submit", (event) => this.#submitted(event));
    chips.addEventListener("click", (event) => this.#clicked(event.target.closest("button")));
    const more = form.querySelector("#more");
    more.addEventListener("click", () => this.#unfold(more.getAttribute("aria-expanded") !== "true"));
  }

  show(filters) {
    for (const { name } of FILTERS) {
      const field = this.#form.elements[name];
      // What is being typed stays as it is, as long as it means the same.
      if (typedIn(name, field.value) !== (filters[name] ?? "")) field.value = shownIn(name, filters[name]);
    }
    const named = FILTERS.filter(({ name }) => filters[name]);
    this.#chips.replaceChildren(...named.map(({ name }) => chip(name, filters[name])), ...(named.length ? [clearing()] : []));
    this.#form.querySelector("#more .number").textContent = named.filter(({ name }) => name !== "q").length || "";
  }

  /** Reasons that are offered for the end. */
  offer(reasons) {
    const options = reasons.filter(Boolean).map((reason) => element("option", { value: reason }));
    this.#form.querySelector("datalist").replaceChildren(...options);
  }

  #unfold(isOpen) {
    this.#form.querySelector("#more").setAttribute("aria-expanded", isOpen);
    this.#form.querySelector("#fields").hidden = !isOpen;
  }

  #typed(field) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tell(field), PAUSE_MS);
  }

  #settled(field) {
    this.#tell(field);
    this.#typingIn = null;
  }

  #submitted(event) {
    event.preventDefault();
    const values = FILTERS.map(({ name }) => [name, typedIn(name, this.#form.elements[name].value)]);
    clearTimeout(this.#timer);
    this.#onChange(Object.fromEntries(values), this.#typingIn !== null);
    this.#typingIn = null;
  }

  #tell(field) {
    clearTimeout(this.#timer);
    const goesOn = this.#typingIn === field.name;
    this.#typingIn = field.name;
    this.#onChange({ [field.name]: typedIn(field.name, field.value) }, goesOn);
  }

  #clicked(button) {
    if (!button) return;
    const names = button.dataset.name ? [button.dataset.name] : FILTERS.map(({ name }) => name);
    this.#onChange(Object.fromEntries(names.map((name) => [name, ""])), false);
    (this.#chips.querySelector("button") ?? this.#form.elements.q).focus();
  }
}

function chip(name, value) {
  const text = chipText(name, value);
  const button = { type: "button", "data-name": name, "aria-label": `remove the filter ${text}` };
  return element("li", {}, element("button", button, `${text} ×`));
}

const clearing = () => element("li", {}, element("button", { type: "button" }, "clear filters"));
