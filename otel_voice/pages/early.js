// The session is asked for while the page's other modules are still on their way.

import { ask } from "./asking.js";

export const isFile = location.search === "?dropped";
export const sessionId = decodeURIComponent(location.pathname.split("/").at(-1));
export const pathOf = (id) => `/v1/sessions/${encodeURIComponent(id)}`;

let first = isFile ? null : ask(`${pathOf(sessionId)}/spans`);
// Whoever takes the answer deals with its failure.
first?.catch(() => {});

/** The first answer, once; after that a new one. */
export function look(id) {
  const asked = first ?? ask(`${pathOf(id)}/spans`);
  first = null;
  return asked;
}
