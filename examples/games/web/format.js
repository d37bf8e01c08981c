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
  const line = h("li", {});
  const path = operation.op === "move" ? operation.from : operation.path;
  line.append(h("span", { class: "path" }, formatPath(path.replace(/\/-$/, ""))), " ");
  // An item that is put into a list has nothing before it at its place.
  const list = valueAt(before ?? null, path.replace(/\/[^/]*$/, ""));
  const old = operation.op === "add" && Array.isArray(list) ? undefined : valueAt(before ?? null, path);
  if (operation.op === "move") line.append(h("ins", {}, `moved to ${formatPath(operation.path)}`));
  else if (operation.op === "copy") line.append(h("ins", {}, `copied from ${formatPath(operation.from)}`));
  else {
    if (old !== undefined) line.append(h("del", {}, formatValue(old)), " ");
    if (operation.op === "remove") line.append(old === undefined ? "removed" : h("span", { class: "visually-hidden" }, "removed"));
    else line.append(h("span", { class: "arrow", "aria-label": "became" }, "→"), " ", h("ins", {}, formatValue(operation.value)));
  }
  return line;
}
