/** Edits of this window that can't go: what each was, why, and what may be done about it. @module */

import { diff } from "/client/index.js";
import { h, renderList, setText } from "../dom.js";
import { changeList, timeElement } from "../format.js";

/**
 * @param {import("/client/index.js").SyncClient} client
 * @param {string} documentId
 */
export function makeHeld(client, documentId) {
  const list = h("ul", { class: "held" });
  const title = h("h3", { id: "held-title" });
  const element = h(
    "section",
    { class: "card kept-back", "aria-labelledby": "held-title" },
    title,
    h("p", { class: "hint" }, "The game is shown without them. They are kept in this browser until you decide."),
    list,
  );
  const render = () => {
    const held = client.held.filter((write) => write.documentId === documentId);
    element.hidden = held.length === 0;
    setText(title, held.length === 1 ? "An edit that was not sent" : `${held.length} edits that were not sent`);
    renderList(list, held.toReversed(), ({ id }) => String(id), (write, existing) => existing ?? makeItem(client, write));
  };
  render();
  return { element, render };
}

/** @param {import("/client/index.js").SyncClient} client @param {any} write */
function makeItem(client, { documentId, id, base, after, madeAtMs, problem }) {
  const operation = base === null ? "create" : after === null ? "delete" : "update";
  const jsonPatch = diff(base, after);
  const item = h(
    "li",
    {},
    h("p", {}, h("strong", {}, `${capital(problem.detail ?? problem.title)}.`), " ", timeElement(madeAtMs)),
    operation === "update" ? changeList({ operation, diff: { jsonPatch } }, base) : h("p", {}, operation === "create" ? "The whole game" : "Its deletion"),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", class: "button small", onclick: () => client.sendHeld(documentId, id) }, "Try again"),
      h("button", { type: "button", class: "button small", onclick: () => download(documentId, after) }, "Save as a file"),
      h("button", { type: "button", class: "button small danger", onclick: () => client.dropHeld(documentId, id) }, "Discard"),
    ),
  );
  return item;
}

/** @param {string} text */
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1).replace(/\.$/, "");

/** Gives the user the state as a file. @param {string} name @param {any} state */
function download(name, state) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(state, undefined, 2)], { type: "application/json" }));
  h("a", { href: url, download: `${name}.json` }).click();
  // The browser has read it by then.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
