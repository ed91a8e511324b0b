// The sessions: what the address asks for, as it is now.

import { ask } from "./asking.js";
import { lookAt, takeDrops } from "./dropped.js";
import { filtersOf, queryOf, withValues } from "./filters.js";
import { follow } from "./following.js";
import { FilterForm } from "./form.js";
import { number, plural } from "./format.js";
import { Plots } from "./plots.js";
import { Rows } from "./rows.js";
import { Shown } from "./shown.js";
import { atMost } from "./soon.js";

const PAGE = 50;
const LARGEST_PAGE = 500;
// A list changes under the reader's eyes at most so often, and the plots over all of it less often.
const MEND_MS = 2000;
const PLOTS_MS = 5000;
// A stream that was refused is asked for again.
const AGAIN_MS = 5000;
// Filters and plots know of an end when the session is final, some four seconds later.
const SETTLED_MS = 5000;

const main = document.querySelector("main");
const older = document.querySelector("#older");
const total = document.querySelector("#total");
const rows = new Rows(document.querySelector("#sessions table"));
const shown = new Shown(main, { onAgain: () => load(), onClear: () => turnTo({}, false) });
const form = new FilterForm(document.querySelector("#filters"), document.querySelector("#chips"), apply);
const plots = new Plots(document.querySelector("#plots"), (values) => apply(values, false));

let filters = filtersOf(location.search);
let next = null;
let underWay = new AbortController();
let isLoadingOlder = false;
let isFollowing = false;
let settling = 0;

function apply(values, goesOn) {
  turnTo(withValues(filters, values), goesOn);
}

/** Other filters: an entry of the history for each that somebody asked for, not for each letter. */
function turnTo(wanted, goesOn) {
  if (queryOf(wanted) === queryOf(filters)) return form.show(filters);
  filters = wanted;
  const address = location.pathname + queryOf(filters);
  if (goesOn) {
    history.replaceState(null, "", address);
  } else {
    remember();
    history.pushState(null, "", address);
  }
  load();
}

/** How far down one was, for the way back. */
function remember() {
  history.replaceState({ loaded: rows.size, top: scrollY }, "");
}

/** The list and the plots anew. */
async function load(place = null) {
  underWay.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  form.show(filters);
  main.setAttribute("aria-busy", "true");
  attempt(() => draw(signal), signal, (error) => plots.fail(error.message));
  await attempt(() => list(place, signal), signal, (error) => shown.refusal(error));
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  if (!shown.isLocked) startFollowing();
}

/** The list that is here stays; only without a token there is none. */
function says(error) {
  if (error.status === 401) shown.refusal(error);
  else shown.notice(`This may not be all: ${error.message}.`);
}

async function list(place, signal) {
  const limit = Math.min(Math.max(place?.loaded ?? 0, PAGE), LARGEST_PAGE);
  const page = await ask(`/v1/sessions${queryOf(filters, { limit })}`, { signal });
  rows.show(page.sessions);
  follows(page.next);
  showList();
  // What the receiver has left out of its answer, and why.
  shown.notice(page.note ?? "");
  if (place?.top) scrollTo(0, place.top);
}

async function draw(signal) {
  const said = await ask(`/v1/sessions/plots${queryOf(filters)}`, { signal });
  plots.show(said, filters);
  form.offer(said.end_reasons.map(([reason]) => reason));
  const text = queryOf(filters) ? `${number(said.count)} found` : plural(said.count, "session");
  if (total.textContent !== text) total.textContent = text;
}

/** What the receiver refuses is told, unless something newer was asked for. */
async function attempt(asked, signal, tell) {
  try {
    await asked();
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === undefined) throw error;
    tell(error);
  }
}

function showList() {
  if (rows.size) shown.list();
  else if (queryOf(filters)) shown.unmatched();
  else shown.noneYet();
}

function follows(cursor) {
  next = cursor;
  older.hidden = next === null;
  // Observed anew, it tells also when it has stayed in sight.
  end.unobserve(older);
  if (next !== null) end.observe(older);
}

async function loadOlder() {
  if (isLoadingOlder || next === null) return;
  const { signal } = underWay;
  isLoadingOlder = true;
  await attempt(async () => {
    const page = await ask(`/v1/sessions${queryOf(filters, { limit: PAGE, before: next })}`, { signal });
    const hadFocus = older === document.activeElement;
    const first = rows.append(page.sessions);
    follows(page.next);
    if (hadFocus && older.hidden) first?.querySelector("a").focus();
  }, signal, says);
  isLoadingOlder = false;
}

/** The first page as it is now, without a jump. */
async function mend(signal) {
  const page = await ask(`/v1/sessions${queryOf(filters, { limit: PAGE })}`, { signal });
  if (!rows.mend(page.sessions, page.next === null)) {
    rows.show(page.sessions);
    follows(page.next);
  }
  showList();
  shown.notice(page.note ?? "");
}

/** For what changes by itself: a load that is under way comes first, and nobody asks for what nobody sees. */
function quietly(asked) {
  if (main.hasAttribute("aria-busy")) return false;
  const { signal } = underWay;
  if (!document.hidden) attempt(() => asked(signal), signal, says);
  return true;
}

function startFollowing() {
  if (isFollowing) return;
  isFollowing = true;
  follow(() => "/v1/sessions/stream", {
    on: { sessions: ({ sessions }) => changed(sessions) },
    onOpen(isAgain) {
      mendSoon();
      if (isAgain) drawSoon();
    },
    onAway: (isAway) => isAway && shown.notice("The receiver does not answer; this list goes on when it does."),
    onRefused() {
      isFollowing = false;
      // The list's own answer says why: without a viewer's cookie there is the way in.
      mendSoon();
      setTimeout(() => shown.isLocked || startFollowing(), AGAIN_MS);
    },
  });
}

function changed(summaries) {
  const areNew = rows.update(summaries);
  // Which of the changed ones a filter holds, only the receiver knows.
  if (areNew || queryOf(filters)) mendSoon();
  drawSoon();
  clearTimeout(settling);
  settling = setTimeout(settle, SETTLED_MS);
}

function settle() {
  if (queryOf(filters)) mendSoon();
  drawSoon();
}

const mendSoon = atMost(MEND_MS, () => quietly(mend));
const drawSoon = atMost(PLOTS_MS, () => quietly(draw));
const end = new IntersectionObserver(([seen]) => seen.isIntersecting && loadOlder(), { rootMargin: "300px" });

older.addEventListener("click", loadOlder);
addEventListener("popstate", ({ state }) => {
  const wanted = filtersOf(location.search);
  // A jump within the page is no other list.
  if (queryOf(wanted) === queryOf(filters)) return;
  filters = wanted;
  load(state);
});
addEventListener("pagehide", remember);
history.scrollRestoration = "manual";

load(history.state);
takeDrops(lookAt);
