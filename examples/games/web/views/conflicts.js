/** Where this window's edits met others': what was kept, what was not, and a way to decide otherwise. @module */

import { applyPatch, valueAt } from "/client/index.js";
import { h } from "../dom.js";
import { formatPath, formatValue } from "../format.js";
import { write } from "../games.js";
import { resolverOf, settings, STRATEGIES } from "../session.js";

/** The most conflicts that are shown; beyond them the oldest goes. */
const CONFLICTS_MAX = 20;

/**
 * @param {import("/client/index.js").SyncClient} client
 * @param {string} documentId
 */
export function makeConflicts(client, documentId) {
  const list = h("ul", { class: "conflicts", "aria-live": "polite" });
  const select = h("select", { id: "strategy" }, ...Object.entries(STRATEGIES).map(([value, text]) => h("option", { value }, text)));
  select.value = settings.get("strategy", "lastWriterWins");
  select.addEventListener("change", () => {
    settings.set("strategy", select.value);
    client.setResolver(resolverOf(select.value));
  });
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "conflicts-title" },
    h("h3", { id: "conflicts-title" }, "Conflicts"),
    h("label", { class: "field-inline" }, h("span", {}, "When two change the same"), select),
    list,
  );

  /** @param {any} conflict */
  const add = (conflict) => {
    // The same place again: only the latest is worth a decision.
    for (const old of list.children) if (old.dataset.path === conflict.path) old.remove();
    list.prepend(makeConflict(client, documentId, conflict));
    while (list.children.length > CONFLICTS_MAX) list.lastElementChild.remove();
  };
  return { element, add };
}

/** @param {import("/client/index.js").SyncClient} client @param {string} documentId @param {any} conflict */
function makeConflict(client, documentId, { path, local, remote, kept }) {
  const decide = (/** @type {any} */ value) => {
    write(client, documentId, (state) => withValue(state, path, value));
    item.remove();
  };
  const option = (/** @type {string} */ who, /** @type {any} */ value, /** @type {string} */ side) =>
    h(
      "div",
      { class: kept === side ? "side kept" : "side" },
      h("span", { class: "who" }, who),
      h("code", {}, value === null && path === "" ? "deleted" : formatValue(value, 80)),
      kept === side
        ? h("span", { class: "mark" }, "kept")
        : h("button", { type: "button", class: "button small", onclick: () => decide(value) }, side === "local" ? "Use mine" : "Use theirs"),
    );
  const item = h(
    "li",
    { "data-path": path },
    h("strong", {}, formatPath(path)),
    option("Mine", local, "local"),
    option("Theirs", remote, "remote"),
    h("button", { type: "button", class: "button small quiet", onclick: () => item.remove() }, "Dismiss"),
  );
  return item;
}

/**
 * A state with a value at a path, whether or not something is there now. `undefined` takes it away.
 *
 * @param {any} state @param {string} path @param {any} value
 */
export function withValue(state, path, value) {
  if (path === "") return value;
  const there = valueAt(state, path) !== undefined;
  try {
    if (value === undefined) return there ? applyPatch(state, [{ op: "remove", path }]) : state;
    return applyPatch(state, [{ op: there ? "replace" : "add", path, value }]);
  } catch {
    // What it was a part of is gone.
    return state;
  }
}
