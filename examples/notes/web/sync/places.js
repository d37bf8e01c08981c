/**
 * Which of the browser's copies of a text belongs to which store of a node.
 *
 * A copy can only go on with a store that has what it is built on. Where a node comes up with another store, emptied, put
 * back or of another folder, the window begins another copy. The one that it had stays, and is opened again when its store
 * is back; what it showed is left here too, to be copied.
 *
 * @module
 */

/** @typedef {{ name: string, title: string, text: string }} Left what a window showed that had to begin anew */

export class Places {
  /** @param {string} doc the name of the text */
  constructor(doc) {
    this.doc = doc;
  }

  /** The copy to begin with: of this store, or the last one that was open. @param {string | undefined} store */
  of(store) {
    return (store && read(this.#ofStore(store))) ?? read(this.#last) ?? `weft-notes-${this.doc}`;
  }

  /** The store that has what is in a copy, where that is known. @param {string} place */
  store(place) {
    return read(`weft-notes-store/${place}`);
  }

  /** Notes that a store has what is in a copy. @param {string} place @param {string | undefined} store */
  note(place, store) {
    try {
      localStorage.setItem(this.#last, place);
      if (store === undefined) return;
      localStorage.setItem(this.#ofStore(store), place);
      localStorage.setItem(`weft-notes-store/${place}`, store);
    } catch {
      // A browser that keeps nothing keeps no copies either.
    }
  }

  /**
   * Leaves a copy for one of another store, and with it what was shown. Returns whether that could be written down: if not,
   * the window is the only place where it is.
   *
   * @param {string} place
   * @param {string | undefined} store the node's
   * @param {{ title: string, text: string }} shown
   */
  leave(place, store, shown) {
    try {
      const there = store && read(this.#ofStore(store));
      const next = there && there !== place ? there : `weft-notes-${this.doc}@${store ?? ""}-${crypto.randomUUID().slice(0, 8)}`;
      if (shown.title || shown.text) localStorage.setItem(`${this.#left}${place}`, JSON.stringify(shown));
      localStorage.setItem(this.#last, next);
      if (store) localStorage.setItem(this.#ofStore(store), next);
      return true;
    } catch {
      return false;
    }
  }

  /** What was left, but for the copy that is open. @param {string} place @returns {Left[]} */
  left(place) {
    try {
      const names = Object.keys(localStorage).filter((name) => name.startsWith(this.#left) && name !== `${this.#left}${place}`);
      return names.sort().map((name) => ({ name, ...JSON.parse(localStorage.getItem(name) ?? "{}") }));
    } catch {
      return [];
    }
  }

  /** Forgets what was left. @param {string} name */
  forget(name) {
    localStorage.removeItem(name);
  }

  get #last() {
    return `weft-notes-place/${this.doc}`;
  }

  get #left() {
    return `weft-notes-left/${this.doc}/`;
  }

  /** @param {string} store */
  #ofStore(store) {
    return `weft-notes-place/${this.doc}/${store}`;
  }
}

/** @param {string} name */
function read(name) {
  try {
    return localStorage.getItem(name) ?? undefined;
  } catch {
    return undefined;
  }
}
