/** The bar: whether this window is live, who else is here, and the theme. Text enters the page as text only. @module */

import { settings } from "./settings.js";

/**
 * @param {HTMLElement} badge
 * @param {import("./sync/link.js").Status} status
 * @param {number} unsent
 * @param {boolean} [refused] whether the node does not take what is typed here
 */
export function showBadge(badge, status, unsent, refused = false) {
  const edits = `${unsent} ${unsent === 1 ? "edit" : "edits"}`;
  const words = {
    live: unsent === 0 ? "Live" : "Saving…",
    connecting: unsent === 0 ? "Connecting" : `Connecting · ${edits} waiting`,
    offline: unsent === 0 ? "Offline" : `Offline · ${edits} kept here`,
  };
  badge.dataset.status = status;
  badge.dataset.unsent = String(unsent);
  const text = refused && unsent > 0 ? `Not taken · ${edits} kept here` : words[status];
  if (badge.textContent !== text) badge.textContent = text;
}

/** More people than this are a number. */
const FACES_MAX = 6;

/**
 * @param {HTMLElement} list
 * @param {import("./people.js").People} people
 * @param {number} ownHue
 */
export function showPeople(list, people, ownHue) {
  const others = [...people.others.values()].sort((a, b) => a.name.localeCompare(b.name) || a.peer.localeCompare(b.peer));
  const faces = others.slice(0, FACES_MAX).map(({ name, hue, editing }) => face(name, hue, editing ? `${name}, editing` : name));
  const own = face(people.name, ownHue, `${people.name} (you)`);
  own.classList.add("own");
  const rest = others.length - FACES_MAX;
  if (rest > 0) faces.push(face(`+${rest}`, 0, `${rest} more`, `+${rest}`));
  list.replaceChildren(own, ...faces);
  list.dataset.count = String(others.length + 1);
}

/** @param {string} name @param {number} hue @param {string} title @param {string} [initial] */
function face(name, hue, title, initial = [...name.trim()][0]?.toUpperCase() ?? "?") {
  const item = document.createElement("li");
  item.className = "face";
  item.style.setProperty("--hue", String(hue));
  item.title = title;
  const letter = document.createElement("span");
  letter.setAttribute("aria-hidden", "true");
  letter.textContent = initial;
  const spoken = document.createElement("span");
  spoken.className = "spoken";
  spoken.textContent = title;
  item.append(letter, spoken);
  return item;
}

/**
 * Shows what windows had that began anew, until the user has done with it.
 *
 * @param {HTMLElement} place
 * @param {import("./sync/places.js").Left[]} left
 * @param {(name: string) => void} forget
 */
export function showLeft(place, left, forget) {
  place.replaceChildren(...left.map((item) => leftItem(item, forget)));
  place.hidden = left.length === 0;
}

/** @param {import("./sync/places.js").Left} item @param {(name: string) => void} forget */
function leftItem({ name, title, text }, forget) {
  const item = document.createElement("article");
  const why = document.createElement("p");
  why.textContent =
    "The node has another text than this window had: its folder is new, was put back from a copy, or is another one. " +
    "This is what you had. It is not in the text below, and nobody else has it from here.";
  const had = document.createElement("textarea");
  had.readOnly = true;
  had.rows = 4;
  had.value = title ? `${title}\n\n${text}` : text;
  had.setAttribute("aria-label", "What this window had");
  const copied = button("Copy", async () => {
    had.select();
    try {
      await navigator.clipboard.writeText(had.value);
      copied.textContent = "Copied";
    } catch {
      // Where the browser does not allow it, it is selected.
    }
  });
  const done = button("Discard", () => {
    forget(name);
    const place = item.parentElement;
    item.remove();
    if (place) place.hidden = place.childElementCount === 0;
  });
  const buttons = document.createElement("p");
  buttons.append(copied, done);
  item.append(why, had, buttons);
  return item;
}

/** @param {string} text @param {() => void} action */
function button(text, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = "button";
  element.textContent = text;
  element.addEventListener("click", action);
  return element;
}

const THEMES = ["automatic", "light", "dark"];
const SIGNS = ["◐", "☀", "☾"];

/** @param {HTMLElement} button */
export function startTheme(button) {
  const show = (/** @type {string} */ theme) => {
    document.documentElement.dataset.theme = theme;
    button.setAttribute("aria-label", `Theme: ${theme}`);
    button.title = `Theme: ${theme}`;
    button.textContent = SIGNS[THEMES.indexOf(theme)] ?? SIGNS[0];
  };
  show(settings.get("theme", "automatic"));
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
    settings.set("theme", next);
    show(next);
  });
}

/** Says something in a corner; errors stay longer. @param {string} text @param {{ error?: boolean }} [options] */
export function toast(text, { error = false } = {}) {
  const element = document.createElement("p");
  element.className = error ? "toast error" : "toast";
  element.textContent = text;
  document.getElementById("toasts")?.append(element);
  setTimeout(() => element.remove(), error ? 9000 : 5000);
}
