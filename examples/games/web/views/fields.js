/**
 * Fields that two may type into at once. Each knows the value that its text started from; what is typed is merged with
 * what came in meanwhile, so neither side's words are lost where they can stand together.
 *
 * @module
 */

import { equal, merge } from "/client/index.js";
import { h } from "../dom.js";

/** How long after the last key a text counts as written. */
const TYPING_PAUSE_MS = 400;

/** @type {Map<HTMLElement, () => void>} The fields, and what writes down what is typed in each. */
const bound = new Map();

/** Whoever leaves the window has written what stands there, also within the pause. */
const leave = () => {
  for (const [control, commit] of bound) {
    if (control.isConnected) commit();
    else bound.delete(control);
  }
};
addEventListener("pagehide", leave);
document.addEventListener("visibilitychange", leave);

/** What a field does with the text typed into it.
 *
 * @typedef {object} Binding
 * @property {string} key the field of the game
 * @property {(value: any) => string} toText
 * @property {(text: string) => any} fromText throws a message for the user when the text is no value
 * @property {(key: string, edit: (value: any) => any) => void} write
 * @property {(clash: any) => void} clashed hears of what was overwritten
 */

/**
 * Binds an `input`, `textarea` or `select` to a field of the game; returns what shows a new value.
 *
 * @param {any} control
 * @param {Binding} binding
 * @returns {(value: any) => void}
 */
export function bind(control, { key, toText, fromText, write, clashed }) {
  /** @type {any} What the text on the screen started from. */
  let base = undefined;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let dirty = false;

  const commit = () => {
    clearTimeout(timer);
    if (!dirty) return;
    let typed;
    try {
      typed = fromText(control.value);
      control.setCustomValidity("");
      control.removeAttribute("aria-invalid");
    } catch (error) {
      control.setCustomValidity(/** @type {Error} */ (error).message);
      control.setAttribute("aria-invalid", "true");
      control.title = /** @type {Error} */ (error).message;
      return;
    }
    control.removeAttribute("title");
    dirty = false;
    const started = base;
    base = typed;
    write(key, (current) =>
      merge(started, typed, current, (clash) => {
        clashed({ ...clash, path: `/${key.replaceAll("~", "~0").replaceAll("/", "~1")}${clash.path}`, kept: "local" });
        return clash.local;
      }),
    );
  };
  control.addEventListener("input", () => {
    dirty = true;
    clearTimeout(timer);
    // A choice is made when it is made; a text may go on.
    if (control.tagName === "SELECT") commit();
    else timer = setTimeout(commit, TYPING_PAUSE_MS);
  });
  bound.set(control, commit);
  control.addEventListener("change", commit);
  control.addEventListener("blur", commit);
  control.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && control.tagName === "INPUT") commit();
  });

  return (value) => {
    if (dirty || equal(value, base)) {
      if (!dirty) base = value;
      return;
    }
    base = value;
    const text = toText(value);
    if (control.value === text) return;
    if (document.activeElement === control && control.setSelectionRange && control.type !== "number") keepCaret(control, text);
    else control.value = text;
  };
}

/** Changes a text under the user's caret, which stays at the same words. @param {any} control @param {string} text */
function keepCaret(control, text) {
  const { value, selectionStart, selectionEnd } = control;
  let same = 0;
  while (same < value.length && same < text.length && value[same] === text[same]) same++;
  const shift = text.length - value.length;
  const moved = (/** @type {number} */ at) => (at <= same ? at : Math.max(same, at + shift));
  control.value = text;
  control.setSelectionRange(moved(selectionStart), moved(selectionEnd));
}

/** @param {string} text */
export function numberFrom(text) {
  const number = Number(text);
  if (text.trim() === "" || !Number.isFinite(number)) throw new Error("This must be a number.");
  return number;
}

/** @param {string} text */
export function jsonFrom(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("This is not JSON. Put texts in double quotes.");
  }
}

/** A number with a button on each side. @param {string} label @param {string} key @param {number} step @param {Binding["write"]} write */
export function stepper(label, key, step, write) {
  const id = `field-${key}`;
  const control = h("input", { id, type: "number", inputMode: "numeric", step: "any" });
  const stepBy = (/** @type {number} */ by) => () => write(key, (value) => (typeof value === "number" ? value : 0) + by);
  const button = (/** @type {string} */ sign, /** @type {string} */ word, /** @type {number} */ by) =>
    h("button", { type: "button", class: "button icon", "aria-label": `${word} ${label.toLowerCase()} by ${step}`, onclick: stepBy(by) }, sign);
  const row = h("div", { class: "stepper" }, button("−", "Lower", -step), control, button("+", "Raise", step));
  return { control, element: h("div", { class: "field" }, h("label", { for: id }, label), row) };
}
