/** Who is here: this window's name and caret for the others, theirs for this one. @module */

import { idBefore } from "./editor/undo.js";
import { encodePresence } from "./sync/wire.js";

/** At most so often is a moved caret told. */
const PAUSE_MS = 60;
/** The longest name, in characters. */
const NAME_CHARS_MAX = 40;

/** @typedef {{ peer: string, name: string, hue: number, editing: boolean, caret: { sid: number, time: number } | undefined }} Person */

/** Tells `change` when somebody comes, goes, or shows something else. */
export class People extends EventTarget {
  /** @type {Map<string, Person>} */
  others = new Map();
  #timer = 0;
  #told = "";

  /**
   * @param {import("./sync/replica.js").Replica} replica
   * @param {import("./sync/link.js").Link} link
   * @param {{ name: string, field: import("./editor/field.js").Field }} own
   */
  constructor(replica, link, { name, field }) {
    super();
    this.replica = replica;
    this.link = link;
    this.name = name;
    this.field = field;
    replica.addEventListener("presence", (event) => this.#heard(/** @type {CustomEvent} */ (event).detail));
    field.addEventListener("caret", () => this.#soon());
    link.addEventListener("open", () => this.#show(true));
    link.addEventListener("status", () => {
      // Cut off, nobody is known to be here.
      if (link.status !== "offline" || this.others.size === 0) return;
      this.others.clear();
      this.dispatchEvent(new Event("change"));
    });
  }

  /** @param {string} name */
  rename(name) {
    this.name = name;
    this.#show(false);
  }

  #soon() {
    if (this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#show(false);
    }, PAUSE_MS);
  }

  /** @param {boolean} anew whether the node has heard nothing yet on this connection */
  #show(anew) {
    const { element } = this.field;
    const editing = document.activeElement === element && document.visibilityState === "visible";
    const id = editing ? idBefore(this.replica.str("text"), element.selectionEnd ?? 0) : undefined;
    const shown = { name: this.name, hue: hueOf(this.replica.name), caret: id ? [id.sid, id.time] : null, editing };
    const text = JSON.stringify(shown);
    if (text === this.#told && !anew) return;
    this.#told = text;
    this.link.show(encodePresence(this.replica.name, new TextEncoder().encode(text)));
  }

  /** @param {{ peer: string, here: boolean, shown: Uint8Array }} message */
  #heard({ peer, here, shown }) {
    // Who has just come and shows nothing yet will say in a moment who it is.
    if (here && shown.length > 0) this.others.set(peer, { peer, ...read(shown) });
    else if (!here) this.others.delete(peer);
    this.dispatchEvent(new Event("change"));
  }
}

/** What another shows; whoever shows something else is there, without a name. @param {Uint8Array} bytes */
function read(bytes) {
  /** @type {any} */
  let shown = {};
  try {
    shown = JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    // Another application's presence: somebody is here all the same.
  }
  const name = typeof shown.name === "string" && shown.name.trim() ? shown.name.slice(0, NAME_CHARS_MAX) : "somebody";
  const hue = Number.isFinite(shown.hue) ? Math.abs(Math.trunc(shown.hue)) % 360 : 0;
  const pair = Array.isArray(shown.caret) && shown.caret.length === 2 && shown.caret.every(Number.isSafeInteger);
  const caret = pair ? { sid: shown.caret[0], time: shown.caret[1] } : undefined;
  return { name, hue, editing: shown.editing === true, caret };
}

/** A colour for a window: the same one each time. @param {string} name */
export function hueOf(name) {
  let hash = 0;
  for (const char of name) hash = (Math.imul(hash, 31) + (char.codePointAt(0) ?? 0)) >>> 0;
  // Twelve hues are as many as the eye tells apart.
  return (hash % 12) * 30;
}
