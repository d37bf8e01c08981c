/** Who else has this game open, and which field each is at. @module */

import { clientChip, h, renderList } from "../dom.js";

/** More than these are a number. */
const PEOPLE_MAX = 5;

/**
 * @param {import("/client/index.js").SyncClient} client
 * @param {string} id
 * @param {HTMLElement} form where the fields are
 */
export function makePeople(client, id, form) {
  const element = h("ul", { class: "people", "aria-label": "Who else is here" });
  const show = (/** @type {string | null} */ field) => client.show(id, { field });
  const fieldOf = (/** @type {any} */ target) => /^field-(.+)$/.exec(target?.id ?? "")?.[1] ?? null;
  form.addEventListener("focusin", ({ target }) => show(fieldOf(target)));
  form.addEventListener("focusout", () => show(null));

  const render = () => {
    const others = [...client.others(id)].sort(([a], [b]) => (a < b ? -1 : 1));
    renderList(element, others.slice(0, PEOPLE_MAX), ([clientId]) => clientId, ([clientId, data]) => {
      const field = fieldIn(data);
      return h("li", { class: "person", "data-field": field ?? "" }, clientChip(clientId, client.clientId), field && h("span", { class: "at" }, `at ${field}`));
    });
    if (others.length > PEOPLE_MAX) element.append(h("li", { class: "person" }, `and ${others.length - PEOPLE_MAX} more`));
    element.dataset.count = String(others.length);
    for (const marked of form.querySelectorAll("[data-others]")) marked.removeAttribute("data-others");
    for (const [, data] of others) {
      const field = fieldIn(data);
      if (field !== undefined) form.querySelector(`#field-${CSS.escape(field)}`)?.setAttribute("data-others", "");
    }
  };
  const stop = client.on("presence", ({ documentId }) => documentId === id && render());
  show(null);
  render();
  return { element, render, close: stop };
}

/** What others send may be anything. @param {any} data @returns {string | undefined} */
const fieldIn = (data) => (typeof data?.field === "string" && data.field.length <= 40 ? data.field : undefined);
