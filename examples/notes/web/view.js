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
