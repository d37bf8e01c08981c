/** The form of one game. It shows the game as this window sees it, or, while the past is shown, as it was. @module */

import { h, renderList } from "../dom.js";
import { bind, jsonFrom, numberFrom, stepper } from "./fields.js";

const STATUSES = ["waiting", "playing", "paused", "finished"];
/** The fields that have a control of their own; any other is shown as JSON. */
const OWN_FIELDS = new Set(["name", "status", "gold", "experience", "level", "players", "notes"]);

/** What a new game starts with. @param {string} name */
export const newGame = (name) => ({ name, status: "waiting", gold: 100, experience: 0, level: 1, players: [], notes: "" });

/**
 * @param {{ write: (edit: (state: any) => any) => void, clashed: (conflict: any) => void }} actions
 */
export function makeEditor({ write, clashed }) {
  /** @type {import("./fields.js").Binding["write"]} */
  const writeField = (key, edit) =>
    write((state) => {
      if (state === null) return state;
      const value = edit(state[key]);
      const { [key]: _, ...others } = state;
      return value === undefined ? others : { ...state, [key]: value };
    });
  const binding = (/** @type {string} */ key, /** @type {any} */ fromText, /** @type {any} */ toText) => ({ key, fromText, toText, write: writeField, clashed });
  const text = (/** @type {any} */ value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
  const same = (/** @type {string} */ value) => value;

  const name = h("input", { id: "field-name", type: "text", maxLength: 200, autocomplete: "off" });
  const status = h("select", { id: "field-status" }, ...STATUSES.map((value) => h("option", { value }, value)));
  const notes = h("textarea", { id: "field-notes", rows: 4 });
  const gold = stepper("Gold", "gold", 10, writeField);
  const experience = stepper("Experience", "experience", 50, writeField);
  const level = stepper("Level", "level", 1, writeField);
  const players = makePlayers(writeField);
  const others = makeOthers(writeField, binding);

  /** @type {Record<string, (value: any) => void>} */
  const shows = {
    name: bind(name, binding("name", nameFrom, text)),
    status: bind(status, binding("status", same, text)),
    notes: bind(notes, binding("notes", same, text)),
    gold: bind(gold.control, binding("gold", numberFrom, text)),
    experience: bind(experience.control, binding("experience", numberFrom, text)),
    level: bind(level.control, binding("level", numberFrom, text)),
    players: players.show,
  };
  const field = (/** @type {string} */ label, /** @type {any} */ control) =>
    h("div", { class: "field", "data-field": control.id.replace("field-", "") }, h("label", { for: control.id }, label), control);

  const numbers = h("div", { class: "row three" }, gold.element, experience.element, level.element);
  const fields = h(
    "fieldset",
    { class: "fields" },
    h("legend", { class: "visually-hidden" }, "The game"),
    h("div", { class: "row name-status" }, field("Name", name), field("Status", status)),
    numbers,
    players.element,
    field("Notes", notes),
    others.element,
  );

  /** @param {any} state @param {{ readOnly: boolean, changed?: Set<string> }} options */
  const show = (state, { readOnly, changed = new Set() }) => {
    fields.disabled = readOnly;
    // A status of somebody else's making is shown as it is.
    if (state.status !== undefined && ![...status.options].some(({ value }) => value === text(state.status))) {
      status.append(h("option", { value: text(state.status) }, text(state.status)));
    }
    for (const [key, showField] of Object.entries(shows)) showField(state[key]);
    others.show(Object.keys(state).filter((key) => !OWN_FIELDS.has(key)), state);
    for (const element of fields.querySelectorAll(".field")) {
      const id = element.querySelector("[id^=field-]")?.id ?? "";
      element.classList.toggle("changed", changed.has(id.replace("field-", "")));
    }
  };
  return { element: fields, show };
}

/** @param {import("./fields.js").Binding["write"]} write */
function makePlayers(write) {
  const list = h("ul", { class: "players" });
  const input = h("input", { id: "field-players", type: "text", maxLength: 80, autocomplete: "off", placeholder: "Add a player" });
  const add = () => {
    const player = input.value.trim();
    if (player === "") return;
    input.value = "";
    write("players", (players) => [...(Array.isArray(players) ? players : []), player]);
  };
  input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && add());
  const remove = (/** @type {string} */ player) => {
    write("players", (players) => {
      const at = players.findIndex((/** @type {any} */ other) => textOf(other) === player);
      return at < 0 ? players : players.toSpliced(at, 1);
    });
    input.focus();
  };
  const element = h(
    "div",
    { class: "field" },
    h("label", { for: "field-players" }, "Players"),
    list,
    h("div", { class: "add" }, input, h("button", { type: "button", class: "button", onclick: add }, "Add player")),
  );
  const show = (/** @type {any} */ players) => {
    const names = (Array.isArray(players) ? players : []).map(textOf);
    renderList(list, names.map((name, index) => ({ name, key: `${name}#${names.slice(0, index).filter((other) => other === name).length}` })), ({ key }) => key, ({ name }, existing) =>
      existing ?? h("li", { class: "chip" }, name, h("button", { type: "button", "aria-label": `Remove player ${name}`, onclick: () => remove(name) }, "×")),
    );
  };
  return { element, show };
}

/** @param {string} text */
function nameFrom(text) {
  if (text.trim() === "") throw new Error("A game needs a name.");
  return text;
}

/** @param {any} value */
const textOf = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** The fields without a control of their own. @param {import("./fields.js").Binding["write"]} write @param {any} binding */
function makeOthers(write, binding) {
  const list = h("div", { class: "others" });
  const key = h("input", { id: "field-new-key", type: "text", placeholder: "name", autocomplete: "off", "aria-label": "Name of the new field" });
  const value = h("input", { type: "text", placeholder: "JSON value", autocomplete: "off", "aria-label": "Value of the new field, as JSON" });
  const hint = h("p", { class: "hint error", role: "alert" });
  const add = () => {
    hint.textContent = "";
    if (key.value.trim() === "") return void (hint.textContent = "Give the field a name.");
    try {
      const json = jsonFrom(value.value);
      write(key.value.trim(), () => json);
      key.value = value.value = "";
      key.focus();
    } catch (error) {
      hint.textContent = /** @type {Error} */ (error).message;
    }
  };
  for (const input of [key, value]) input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && add());
  const element = h(
    "div",
    { class: "field" },
    h("label", { for: "field-new-key" }, "More fields"),
    list,
    h("div", { class: "add" }, key, value, h("button", { type: "button", class: "button", onclick: add }, "Add field")),
    hint,
  );

  /** @param {string} name */
  const make = (name) => {
    const control = h("input", { type: "text", "aria-label": `Field ${name}, as JSON`, spellcheck: false });
    const show = bind(control, binding(name, jsonFrom, JSON.stringify));
    const remove = h("button", { type: "button", class: "button icon", "aria-label": `Remove field ${name}`, onclick: () => write(name, () => undefined) }, "×");
    return Object.assign(h("div", { class: "other", "data-field": name }, h("span", { class: "path" }, name), control, remove), { show });
  };
  const show = (/** @type {string[]} */ names, /** @type {any} */ state) => {
    renderList(list, names, (name) => name, (name, existing) => {
      const row = existing ?? make(name);
      row.show(state[name]);
      return row;
    });
  };
  return { element, show };
}
