// Files that are dropped on a page: a recording (.jsonl) or OTLP JSON (.json) of a session, looked at where they are.

import { ask } from "./asking.js";
import { eventsOf } from "./evidence.js";
import { isOtlp, lookedAt } from "./otlp.js";

const LARGEST = 64 * 1024 * 1024;

/** `onFile(File)` for each file that is dropped anywhere on the page. */
export function takeDrops(onFile) {
  const holdsFile = ({ dataTransfer }) => [...(dataTransfer?.types ?? [])].includes("Files");
  const mark = (is) => document.body.classList.toggle("dropping", is);
  addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    mark(true);
  });
  addEventListener("dragleave", ({ relatedTarget }) => relatedTarget === null && mark(false));
  addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    mark(false);
    const [file] = event.dataTransfer.files;
    if (file) onFile(file);
  });
}

/** {looked, events}: as the receiver would answer for it. Throws an Error with one sentence. */
export async function read(file) {
  if (file.size > LARGEST) throw new Error(`${file.name} is larger than ${LARGEST >> 20} MiB`);
  const text = await file.text();
  if (isOtlp(text)) return { looked: lookedAt(text), events: null };
  const headers = { "Content-Type": "application/x-ndjson" };
  return { looked: await ask("/v1/view", { method: "POST", headers, body: text }), events: eventsOf(text) };
}

/** For another page: keeps the file and goes to the session page, which looks at it. */
export async function lookAt(file) {
  await stored("readwrite", (files) => files.put(file, "dropped"));
  location.assign("/sessions/file?dropped");
}

/** The file that `lookAt` kept, undefined if there is none. */
export const keptFile = () => stored("readonly", (files) => files.get("dropped"));

function stored(mode, does) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("otel-voice-viewer", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("files");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const transaction = opening.result.transaction("files", mode);
      const asked = does(transaction.objectStore("files"));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = () => reject(transaction.error);
    };
  });
}
