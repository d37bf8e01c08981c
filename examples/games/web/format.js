/** Words for times, values and changes. @module */

import { parsePointer, valueAt } from "/client/index.js";
import { h, shorten } from "./dom.js";

const timeOfDay = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const dateAndTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** @param {number} ms */
export function timeElement(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  const text = (today ? timeOfDay : dateAndTime).format(date);
  return h("time", { dateTime: date.toISOString(), title: dateAndTime.format(date) }, text);
}

/** @param {any} value @param {number} [charsMax] */
export function formatValue(value, charsMax = 48) {
  if (value === undefined) return "nothing";
  return shorten(typeof value === "string" ? `“${value}”` : JSON.stringify(value), charsMax);
}

/** A pointer as people write it: `players › 2 › name`. @param {string} pointer */
export function formatPath(pointer) {
  const tokens = parsePointer(pointer);
  return tokens.length === 0 ? "the game" : tokens.join(" › ");
}

export const OPERATION_NAMES = { create: "created", update: "updated", update_section: "updated", delete: "deleted" };

/**
 * What an event changed, as a list of lines.
 *
 * @param {any} event
 * @param {any} before the state before it; `undefined` if that is not at hand
 */
export function changeList(event, before) {
  const list = h("ul", { class: "changes" });
  if (event.operation === "create" || event.operation === "delete") {
    const state = event.operation === "create" ? event.diff.jsonPatch.at(-1)?.value : before;
    const name = state?.name;
    if (typeof name === "string") list.append(h("li", {}, h("q", {}, shorten(name, 60))));
    return list;
  }
  for (const operation of event.diff.jsonPatch) list.append(changeLine(operation, before));
  return list;
}

/** @param {any} operation @param {any} before */
function changeLine(operation, before) {
  const { op, value } = operation;
  const path = op === "move" ? operation.from : operation.path;
  const parent = path.replace(/\/[^/]*$/, "");
  const listed = Array.isArray(valueAt(before ?? null, parent));
  const old = valueAt(before ?? null, path);
  if (listed && op === "add") return line(parent, "+", h("ins", {}, formatValue(value)));
  if (listed && op === "remove") return line(parent, "−", h("del", {}, formatValue(old)));
  if (op === "move") return line(path, h("ins", {}, `moved to ${formatPath(operation.path)}`));
  if (op === "copy") return line(path, h("ins", {}, `copied from ${formatPath(operation.from)}`));
  if (op === "remove") return line(path, old === undefined ? "" : h("del", {}, formatValue(old)), "removed");
  const arrow = h("span", { class: "arrow", role: "img", "aria-label": "became" }, "→");
  return line(path, old === undefined ? "" : h("del", {}, formatValue(old)), arrow, h("ins", {}, formatValue(value)));
}

/** @param {string} path @param {...(Node | string)} parts */
function line(path, ...parts) {
  const spaced = parts.filter((part) => part !== "").flatMap((part) => [" ", part]);
  return h("li", {}, h("span", { class: "path" }, formatPath(path)), ...spaced);
}
