/** The others' carets over the text: a copy of the text, invisible, with marks between its characters. @module */

import { positionBehind } from "./undo.js";

/**
 * Draws the text and the marks again. The copy also gives the textarea above it its height.
 *
 * @param {HTMLElement} copy
 * @param {import("../sync/replica.js").Replica} replica
 * @param {import("../people.js").Person[]} people
 */
export function drawCarets(copy, replica, people) {
  const node = replica.str("text");
  const text = replica.text("text");
  const marks = people
    .filter(({ editing }) => editing)
    .map((person) => ({ person, at: positionBehind(node, person.caret) }))
    .sort((a, b) => a.at - b.at);
  const parts = document.createDocumentFragment();
  let from = 0;
  for (const { person, at } of marks) {
    parts.append(text.slice(from, at), mark(person));
    from = at;
  }
  // An empty last line has no height of its own.
  parts.append(text.slice(from), "\u200b");
  copy.replaceChildren(parts);
  const { left, width } = copy.getBoundingClientRect();
  for (const caret of copy.querySelectorAll(".caret")) {
    // A name is at most half as wide as a phone: it goes to the side where there is room.
    caret.classList.toggle("back", caret.getBoundingClientRect().left - left > width / 2);
  }
}

/** @param {import("../people.js").Person} person */
function mark({ peer, name, hue }) {
  const caret = document.createElement("span");
  caret.className = "caret";
  caret.dataset.peer = peer;
  caret.dataset.name = name;
  caret.style.setProperty("--hue", String(hue));
  return caret;
}
