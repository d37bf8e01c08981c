/** The snapshots that the server keeps of a game: which there are, and a way to make one. @module */

import { h, renderList, toast } from "../dom.js";
import { authorization } from "../session.js";

/**
 * @param {string} id
 * @param {(version: number) => void} show shows the game as it was in one
 */
export function makeSnapshots(id, show) {
  const path = `/api/snapshots/${encodeURIComponent(id)}`;
  const list = h("ul", { class: "snapshots", "aria-label": "Snapshots" });
  const make = async () => {
    try {
      const { version } = await ask(path, { method: "POST" });
      toast(`The server keeps a snapshot of event ${version}.`);
      await read();
    } catch (error) {
      toast(`No snapshot was made: ${/** @type {Error} */ (error).message}.`, { error: true });
    }
  };
  const button = h("button", { type: "button", class: "button", onclick: make }, "Take a snapshot");
  const element = h("div", { class: "snapshot-row" }, button, list);

  /** Reads which there are. Those of a game that is not there are none. */
  async function read() {
    /** @type {{ items: { version: number }[] }} */
    const { items } = await ask(path).catch(() => ({ items: [] }));
    renderList(list, items, ({ version }) => String(version), ({ version }, existing) => existing ?? makeItem(version, show));
  }
  return { element, read };
}

/** @param {number} version @param {(version: number) => void} show */
const makeItem = (version, show) =>
  h("li", {}, h("button", { type: "button", class: "number", "aria-label": `Show the snapshot of event ${version}`, onclick: () => show(version) }, `#${version}`));

/** @param {string} path @param {object} [options] */
async function ask(path, options) {
  const response = await fetch(path, { ...options, cache: "no-store", headers: authorization() });
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail ?? body.title);
  return body;
}
