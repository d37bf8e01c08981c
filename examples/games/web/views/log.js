/** The event log of the open game, newest first. @module */

import { clientChip, h, renderList } from "../dom.js";
import { changeList, OPERATION_NAMES, timeElement } from "../format.js";

/**
 * @param {import("../history.js").History} history
 * @param {string} ownId
 * @param {(version: number) => void} show shows the game as it was after an event
 */
export function makeLog(history, ownId, show) {
  const list = h("ol", { class: "log", reversed: true });
  const earlier = h("button", { type: "button", class: "button", onclick: () => history.readEarlier() }, "Show earlier events");
  const element = h("section", { class: "card", "aria-labelledby": "log-title" }, h("h3", { id: "log-title" }, "Event log"), list, earlier);
  const render = () => {
    earlier.hidden = !history.more;
    renderList(
      list,
      history.events.toReversed(),
      ({ sequenceNum }) => String(sequenceNum),
      (event, existing) => existing ?? makeEntry(event, history.stateAtHand(event.sequenceNum - 1), ownId, show),
    );
  };
  history.addEventListener("change", render);
  render();
  return element;
}

/** @param {any} event @param {any} before @param {string} ownId @param {(version: number) => void} show */
function makeEntry(event, before, ownId, show) {
  const number = h(
    "button",
    {
      type: "button",
      class: "number",
      "aria-label": `Show the game after event ${event.sequenceNum}`,
      onclick: () => show(event.sequenceNum),
    },
    `#${event.sequenceNum}`,
  );
  const name = /** @type {any} */ (OPERATION_NAMES)[event.operation] ?? event.operation;
  const operation = h("span", { class: "operation", "data-operation": event.operation }, name);
  const head = h("div", { class: "entry-head" }, number, operation, clientChip(event.clientId, ownId), timeElement(event.timestamp));
  return h("li", {}, head, changeList(event, before));
}
