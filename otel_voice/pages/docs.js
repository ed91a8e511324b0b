// The API's reference, from /openapi.json of this receiver.

import { ask } from "./asking.js";
import { copyButton } from "./copying.js";
import { element, fill } from "./elements.js";
import { plural } from "./format.js";
import { curlOf, groupsOf, matches, piecesOf, schemasOf, wordsOf } from "./reference.js";

const main = document.querySelector("main");
const contents = document.querySelector("#contents");
const filter = document.querySelector("#filter");
// Said once, above all calls.
const EVERYWHERE = "x-otel-voice-time";
const wide = matchMedia("(width >= 60rem)");
let names = new Set();
let entries = [];

const anchor = (name) => `schema-${name}`;
const link = (name) => element("a", { href: `#${anchor(name)}` }, name);
const typed = (type) => type.map((part) => (part.ref ? link(part.ref) : part));
const text = (said) =>
  piecesOf(said, names).map((piece) => (piece.ref ? link(piece.ref) : piece.code ? element("code", {}, piece.code) : piece));

function signature({ method, path }) {
  return [element("span", { class: `method ${method.toLowerCase()}` }, method), " ", element("code", {}, path)];
}

function part(name, ...children) {
  return element("section", { class: "part" }, element("h4", {}, name), ...children);
}

function fieldList(fields) {
  const rows = fields.map((field) => {
    const required = field.isRequired && element("span", { class: "badge" }, "required");
    const limits = field.limits && element("span", { class: "limits" }, field.limits);
    return element(
      "div",
      {},
      element("dt", {}, element("code", {}, field.name), required),
      element("dd", { class: "type" }, field.place && `${field.place}, `, typed(field.type)),
      element("dd", {}, text(field.description), limits),
    );
  });
  return element("dl", { class: "fields" }, rows);
}

function answerList(answers) {
  const rows = answers.map(({ status, description, content, headers, later }) => {
    const bodies = content.flatMap(({ media, type }) => [...typed(type), ` (${media})`, " "]);
    const next = later.flatMap((id, n) => [n ? ", " : ", then ", element("a", { href: `#${id}` }, id)]);
    const also = headers.filter((name) => name !== EVERYWHERE);
    const kind = status < 400 ? "good" : status < 500 ? "warning" : "bad";
    return element(
      "div",
      {},
      element("dt", {}, element("span", { class: `badge ${kind}` }, status)),
      element("dd", {}, text(description), element("span", { class: "limits" }, bodies, also.length > 0 && `with ${also.join(", ")}`, next)),
    );
  });
  return element("dl", { class: "answers" }, rows);
}

function bodyPart({ description, media, type, isRequired, fields }) {
  const how = `, as ${media.join(" or ")}${isRequired ? "" : ", or none"}. ${description}`;
  return part("Body", element("p", { class: "muted" }, typed(type), how), fields.length > 0 && fieldList(fields));
}

function examplePart(call) {
  const command = curlOf(call, location.origin);
  return part("Example", element("div", { class: "example" }, element("pre", { tabindex: 0 }, command), copyButton("Copy", command)));
}

function callArticle(call) {
  const may = call.may.length ? call.may : ["Whoever reaches the receiver."];
  return element(
    "article",
    { id: call.id, class: "panel", tabindex: -1, "aria-labelledby": `${call.id}-name` },
    element("h3", { id: `${call.id}-name` }, element("a", { href: `#${call.id}` }, signature(call))),
    element("p", { class: "summary" }, text(call.summary), "."),
    call.description && element("p", {}, text(call.description)),
    part("Who may", element("ul", {}, may.map((each) => element("li", {}, text(each))))),
    call.parameters.length > 0 && part("Parameters", fieldList(call.parameters)),
    call.body && bodyPart(call.body),
    examplePart(call),
    part("Answers", answerList(call.answers)),
  );
}

function schemaArticle({ name, description, fields, oneOf }) {
  const id = anchor(name);
  return element(
    "article",
    { id, class: "panel", tabindex: -1, "aria-labelledby": `${id}-name` },
    element("h3", { id: `${id}-name` }, element("a", { href: `#${id}` }, element("code", {}, name))),
    description && element("p", {}, text(description)),
    oneOf.length > 0 && element("ul", { class: "several" }, oneOf.map((each) => element("li", {}, link(each)))),
    fields.length > 0 && fieldList(fields),
  );
}

/** An article, its place in the contents, and what it is found by. */
function entry(article, label, said) {
  const item = element("li", {}, element("a", { href: `#${article.id}` }, label));
  entries.push({ article, item, words: wordsOf(said), isCall: Boolean(said.method) });
  return { article, item };
}

function section(name, ...children) {
  return element("section", { class: "group", "aria-label": name }, element("h2", {}, name), ...children);
}

function show(said) {
  document.querySelector("#version").textContent = said.info.version;
  fill(document.querySelector("#about"), said.info.description.split("\n\n").map((each) => element("p", {}, text(each))));
  const listed = [];
  for (const group of groupsOf(said)) {
    const made = group.calls.map((call) => entry(callArticle(call), signature(call), call));
    const about = element("p", {}, text(group.description));
    document.querySelector("#calls").append(section(group.name, about, made.map((each) => each.article)));
    listed.push(section(group.name, element("ul", {}, made.map((each) => each.item))));
  }
  const schemas = schemasOf(said).map((schema) => entry(schemaArticle(schema), schema.name, schema));
  document.querySelector("#schemas").append(...schemas.map((each) => each.article));
  listed.push(section("Schemas", element("ul", {}, schemas.map((each) => each.item))));
  fill(contents.querySelector("nav"), listed);
}

function choose() {
  for (const each of entries) each.article.hidden = each.item.hidden = !matches(each.words, filter.value.trim());
  for (const group of document.querySelectorAll(".group, #schemas")) {
    group.hidden = !group.querySelector("article:not([hidden]), nav li:not([hidden])");
  }
  const left = entries.filter(({ article }) => !article.hidden);
  const calls = left.filter((each) => each.isCall).length;
  document.querySelector("#about").hidden = filter.value.trim() !== "";
  document.querySelector("#nothing").hidden = left.length > 0;
  document.querySelector("#total").textContent = `${plural(calls, "call")}, ${plural(left.length - calls, "schema")}`;
}

/** To what the address names, also if the filter has hidden it. */
function turn() {
  const wanted = entries.find(({ article }) => `#${article.id}` === location.hash)?.article;
  if (!wanted) return;
  if (wanted.hidden) {
    filter.value = "";
    choose();
  }
  if (!wide.matches) contents.open = false;
  wanted.scrollIntoView();
  wanted.focus({ preventScroll: true });
}

async function load() {
  try {
    const said = await ask("/openapi.json");
    names = new Set(Object.keys(said.components.schemas));
    show(said);
    choose();
    turn();
  } catch (error) {
    const notice = document.querySelector("#notice");
    notice.textContent = `The reference cannot be shown: ${error.message}.`;
    notice.hidden = false;
  }
  main.removeAttribute("aria-busy");
}

contents.open = wide.matches;
wide.addEventListener("change", () => (contents.open = wide.matches));
filter.addEventListener("input", choose);
filter.form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", turn);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest?.("input, select, textarea")) return;
  event.preventDefault();
  filter.focus();
});
load();
