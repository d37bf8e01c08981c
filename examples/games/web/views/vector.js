/** The state vector of the open game: how many writes of each client this window's state contains. @module */

import { clientChip, h } from "../dom.js";

/** @param {import("/client/index.js").StateManager} manager @param {string} ownId */
export function makeVector(manager, ownId) {
  const rows = h("tbody", {});
  const cursor = h("output", {});
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "vector-title" },
    h("h3", { id: "vector-title" }, "State vector"),
    h(
      "table",
      { class: "vector" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Client"), h("th", { scope: "col", class: "right" }, "Writes contained"))),
      rows,
    ),
    h("p", { class: "hint" }, "Cursor: after event ", cursor),
  );
  let shown = "";
  const render = () => {
    const entries = Object.entries(manager.stateVector).sort(([a], [b]) => (a < b ? -1 : 1));
    cursor.textContent = String(manager.version);
    const key = JSON.stringify(entries);
    if (key === shown) return;
    shown = key;
    const cells = entries.map(([clientId, sequence]) =>
      h("tr", { "data-client": clientId }, h("th", { scope: "row" }, clientChip(clientId, ownId)), h("td", { class: "right" }, sequence)),
    );
    rows.replaceChildren(...(cells.length > 0 ? cells : [h("tr", {}, h("td", { colSpan: 2, class: "hint" }, "Nothing yet."))]));
  };
  render();
  return { element, render };
}
