// Any span: its attributes, what is in it, the events behind it.

import { attributesOf } from "./attributes.js";
import { copyButton } from "./copying.js";
import { element, fill, webAddress } from "./elements.js";
import { duration, moment, plural } from "./format.js";

/** `eventsBehind(row)` promises events, `onGo(id)` goes to another span. */
export class Drawer {
  #dialog;
  #eventsBehind;
  #onGo;
  #from = null;
  #row = null;

  constructor(dialog, { eventsBehind, onGo }) {
    this.#dialog = dialog;
    this.#eventsBehind = eventsBehind;
    this.#onGo = onGo;
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  get row() {
    return this.#dialog.open ? this.#row : null;
  }

  open(row, call) {
    this.#row = row;
    if (!this.#dialog.open) this.#from = document.activeElement;
    fill(this.#dialog, this.#head(row), this.#facts(row, call), ...this.#sections(row, call));
    if (!this.#dialog.open) this.#dialog.show();
    this.#dialog.scrollTop = 0;
    this.#dialog.querySelector("h2").focus();
  }

  close() {
    if (!this.#dialog.open) return;
    this.#dialog.close();
    if (this.#from?.isConnected) this.#from.focus();
    else document.getElementById("lanes").focus();
  }

  #head(row) {
    return element(
      "header",
      {},
      element("h2", { id: "drawer-name", tabindex: "-1" }, row.name),
      element(
        "button",
        { type: "button", class: "close", "aria-label": "Close", title: "Close (Esc)", click: () => this.close() },
        "×",
      ),
    );
  }

  #facts(row, call) {
    const { span } = row;
    const state = row.runs ? "so far" : row.cancelled ? "cancelled" : row.failed ? "failed" : null;
    const from = `${moment(row.start - call.start, 3)}, ${duration(row.end - row.start)}`;
    return element(
      "p",
      { class: "drawer-facts" },
      element("span", { class: "numbers" }, from),
      state && element("span", { class: `badge ${row.failed ? "bad" : row.runs ? "live" : "warning"}` }, state),
      copyButton("Copy as JSON", JSON.stringify(span, null, 2)),
      ...Object.entries({ jaeger: "Jaeger", langfuse: "Langfuse" }).map(([key, name]) => linkTo(name, call.links[key])),
      span.status_message && element("span", { class: "wide" }, span.status_message),
    );
  }

  #sections(row, call) {
    const parent = call.byId.get(row.parent);
    const inside = call.rows.filter((each) => each.parent === row.id);
    return [
      parent && section("Inside of", element("ul", {}, this.#link(parent, call))),
      section("Attributes", attributesOf(row.span)),
      inside.length > 0 &&
        section(
          `Spans in it (${inside.length})`,
          element(
            "ul",
            {},
            inside.slice(0, 1000).map((each) => this.#link(each, call)),
          ),
        ),
      this.#behind(row, call),
    ];
  }

  #link(row, call) {
    const name = row.turn && row.kind === "turn" ? `${row.name}, turn ${row.turn.number}` : row.name;
    const button = element("button", { type: "button", class: "plain", click: () => this.#onGo(row.id) }, name);
    return element(
      "li",
      {},
      button,
      element(
        "span",
        { class: "muted numbers" },
        ` ${moment(row.start - call.start, 3)}, ${duration(row.end - row.start)}`,
      ),
    );
  }

  #behind(row, call) {
    const list = element("ol", { class: "events" });
    const said = element("p", { class: "muted" });
    const show = async () => {
      said.textContent = "Asking…";
      try {
        const events = await this.#eventsBehind(row);
        said.textContent = `${plural(events.length, "event")}${events.length > 500 ? ", the first 500 here" : ""}`;
        fill(
          list,
          events.slice(0, 500).map((event) => eventOf(event, call)),
        );
      } catch (error) {
        said.textContent = error.message;
      }
    };
    const details = element("details", { class: "behind" }, element("summary", {}, "Events behind it"), said, list);
    details.addEventListener("toggle", () => details.open && show(), { once: true });
    return details;
  }
}

const section = (name, ...inside) => element("section", {}, element("h3", {}, name), ...inside);

function eventOf(event, call) {
  const { type, ts } = event;
  const what = event.message
    ? (event.message.type ?? Object.keys(event.message).join(", "))
    : (event.name ?? event.role ?? "");
  const when = ts === undefined ? "" : moment(ts - call.start, 3);
  return element(
    "li",
    {},
    element(
      "details",
      {},
      element(
        "summary",
        {},
        element("span", { class: "numbers muted" }, when),
        ` ${type ?? "event"} `,
        element("span", { class: "muted" }, String(what)),
      ),
      element("pre", {}, JSON.stringify(event, null, 2)),
    ),
  );
}

function linkTo(name, url) {
  const address = webAddress(url);
  return address && element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, name);
}
