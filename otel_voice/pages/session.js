// The session page: asks for a session, or reads a file, and keeps its parts in step.

import { Answers, showLegend } from "./answers.js";
import { Refused } from "./asking.js";
import { callOf } from "./call.js";
import { Conversation } from "./conversation.js";
import { Drawer } from "./drawer.js";
import { keptFile, read, takeDrops } from "./dropped.js";
import { isFile, look, pathOf, sessionId } from "./early.js";
import { fill } from "./elements.js";
import { eventsBehind, eventsOf, turnIdOf } from "./evidence.js";
import { follow } from "./following.js";
import { grown } from "./grown.js";
import { showFacts, showStatus, showVerdict, titleOf } from "./head.js";
import { Notice } from "./notice.js";
import { selectionOf } from "./selection.js";
import { Timeline } from "./timeline.js";

const AGAIN_MS = 3_000;
const UNMAPPED = 500;
const part = (id) => document.getElementById(id);

const notice = new Notice(part("notice"));
const conversation = new Conversation(part("conversation"), {
  onSelect: (id, turn) => select(id, turn, "conversation"),
  onOpen: open,
});
const answers = new Answers(part("answers"), (id, turn) => select(id, turn, "answers"));
const drawer = new Drawer(part("drawer"), { eventsBehind: behind, onGo: (id) => (select(id), open(id)) });
const timeline = new Timeline(
  {
    lanes: part("lanes"),
    minimap: part("minimap"),
    zoomIn: part("zoom-in"),
    zoomOut: part("zoom-out"),
    fit: part("zoom-fit"),
  },
  { onSelect: (id) => select(id, null, "lanes"), onOpen: (id) => open(id ?? selected), onStep: step },
);

let call = null;
let looked = null;
let selected = null;
// The events of a session that is over, or of a file.
let events = null;
let stop = () => {};
let again = 0;

function show(given) {
  looked = given;
  call = callOf(given);
  part("call").hidden = false;
  document.title = `${titleOf(call)} · otel_voice`;
  part("title").textContent = call.id;
  showStatus(part("status"), call);
  showVerdict(part("verdict"), call, go);
  showFacts(part("facts"), call);
  timeline.show(call);
  conversation.show(call);
  answers.show(call);
  showLegend(part("legend"), call);
  if (selected !== null) mark(call.byId.get(selected), null);
}

/** `from` is the part where it was clicked: the others follow. */
function select(id, turnId = null, from = null) {
  const row = call.byId.get(id) ?? call.byId.get(turnId);
  if (!row) return;
  selected = row.id;
  mark(row, from);
  if (from !== "lanes") timeline.select(row);
}

function mark(row, from) {
  if (!row) return;
  const follows = from !== null;
  timeline.mark(row);
  conversation.select(row, follows && from !== "conversation");
  answers.select(row.turn?.id, follows && from !== "answers");
  fill(part("selection"), selectionOf(row, call, open));
}

function open(id) {
  const row = call?.byId.get(id);
  if (row) drawer.open(row, call);
}

/** From the verdict to where a part of it is to be seen. */
function go(to) {
  if (to === "facts") return part("facts").focus();
  const id = to === "end" ? call.root?.id : to;
  select(id, null, "verdict");
  part("timeline").scrollIntoView({ block: "nearest" });
}

function step(by) {
  const { turns } = call;
  const at = turns.findIndex(({ id }) => id === call.byId.get(selected)?.turn?.id);
  const turn = turns[at < 0 ? (by > 0 ? 0 : turns.length - 1) : Math.min(Math.max(at + by, 0), turns.length - 1)];
  if (turn) select(turn.id, turn.id, "keys");
}

async function behind(row) {
  const all = events ?? (await fetched());
  if (!call.running) events = all;
  return eventsBehind(row, all, await turnIdOf(row, all));
}

async function fetched() {
  if (looked.file) throw new Error("A file of spans has no events.");
  const answer = await fetch(`${pathOf(call.id)}/events`);
  if (!answer.ok) throw new Refused(answer.status, `The receiver answered with ${answer.status}.`);
  return eventsOf(await answer.text());
}

async function load(id) {
  const path = pathOf(id);
  part("title").textContent = id;
  try {
    show(await look(id));
  } catch (error) {
    return failed(error, id);
  }
  notice.clear();
  offerDownloads(id, true);
  if (call.running) stop = followed(`${path}/stream`, id);
}

/** The session's stream, taken up where it was left. */
function followed(path, id) {
  let seen = "";
  const session = (change, lastEventId) => {
    seen = lastEventId;
    show(grown(looked, change));
  };
  const end = () => {
    stop();
    load(id);
  };
  return follow(() => (seen ? `${path}?seen=${encodeURIComponent(seen)}` : path), {
    on: { session, end },
    onAway,
    onRefused: () => (again = setTimeout(load, AGAIN_MS, id)),
  });
}

function offerDownloads(id, isMapped) {
  part("downloads").hidden = false;
  part("download-otlp").hidden = !isMapped;
  offer("download-events", `${pathOf(id)}/events`, `${id}.jsonl`);
  offer("download-otlp", `${pathOf(id)}/otlp`, `${id}.json`);
}

function offer(id, href, name) {
  part(id).setAttribute("href", href);
  part(id).setAttribute("download", name);
}

function failed(error, id) {
  if (error.status === 401) return notice.askToken(() => load(id));
  if (error.status === 404) return notice.say(`There is no session ${id} here.`, "bad");
  // One that cannot be mapped still has its events, and waiting mends nothing.
  if (error.status === UNMAPPED) offerDownloads(id, false);
  const passes = error.status === 0 || error.status === 429 || error.status > UNMAPPED;
  if (passes) again = setTimeout(load, AGAIN_MS, id);
  notice.say(`Could not look at it: ${error.message}.${passes ? " Trying again…" : ""}`, "bad");
}

function onAway(isAway) {
  if (isAway) notice.say("The receiver is away; what is here stays, and the page tries again.");
  else notice.clear();
}

async function lookAt(file) {
  try {
    const { looked, events: lines } = await read(file);
    stop();
    clearTimeout(again);
    [selected, events] = [null, lines];
    drawer.close();
    part("downloads").hidden = true;
    timeline.reset();
    show({ ...looked, file: true });
    notice.say(`This is ${file.name}, a file: nothing of it was stored.`);
  } catch (error) {
    notice.say(`${file.name}: ${error.message}`, "bad");
  }
}

takeDrops(lookAt);
part("file").addEventListener("change", ({ target }) => target.files[0] && lookAt(target.files[0]));
if (isFile) keptFile().then((file) => (file ? lookAt(file) : notice.say("Drop a file on the page.")));
else load(sessionId);
