/** Makes elements. Text only ever enters a page as text nodes and attributes, never as markup. @module */

/**
 * An element. Properties starting with `on` are listeners, `class`, `data-*`, `aria-*` and other names with a dash are
 * attributes, the rest are properties. `undefined`, `null` and `false` children are left out.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | number | undefined | null | false)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "for" || name === "role" || name.includes("-")) element.setAttribute(name, value);
    else /** @type {any} */ (element)[name] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false).map(asNode));
  return element;
}

/** @param {any} child */
const asNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * Sets a text only where it differs, so that screen readers speak only of changes.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes a list's children match `items`: elements are kept by key, so that focus and animations survive.
 *
 * @template T
 * @param {Element} list
 * @param {T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T, existing: any) => HTMLElement} render makes the element, or updates the existing one
 */
export function renderList(list, items, keyOf, render) {
  const existing = new Map([...list.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, child]));
  items.forEach((item, index) => {
    const key = keyOf(item);
    const element = render(item, existing.get(key));
    element.dataset.key = key;
    // One that was made anew stands in the place of the one before.
    if (existing.get(key) === element) existing.delete(key);
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
  for (const gone of existing.values()) gone.remove();
}

/** A badge for a client: a dot in a color that its id gives it, and the id. @param {string} clientId @param {string} own */
export function clientChip(clientId, own) {
  let hash = 0;
  for (const char of clientId) hash = (Math.imul(hash, 31) + (char.codePointAt(0) ?? 0)) | 0;
  // Twelve hues are as many as the eye tells apart.
  const hue = (Math.abs(hash) % 12) * 30;
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  dot.style.setProperty("--hue", String(hue));
  const isOwn = clientId === own;
  return h("span", { class: "client", title: clientId }, dot, isOwn ? "this window" : shorten(clientId, 14));
}

/** @param {string} text @param {number} charsMax */
export function shorten(text, charsMax) {
  const chars = [...text];
  return chars.length <= charsMax ? text : `${chars.slice(0, charsMax - 1).join("")}…`;
}

/** Says something in a corner; errors stay longer. @param {string} text @param {{ error?: boolean }} [options] */
export function toast(text, { error = false } = {}) {
  const element = h("p", { class: error ? "toast error" : "toast" }, text);
  byId("toasts").append(element);
  setTimeout(() => element.remove(), error ? 9000 : 4000);
}

/** Asks a yes-or-no question. @param {{ title: string, text: string, yes: string }} question @returns {Promise<boolean>} */
export function confirm({ title, text, yes }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
