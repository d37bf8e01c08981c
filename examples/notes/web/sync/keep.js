/**
 * Keeps a text in the browser, so that it opens without the node, and what was typed outlives the window.
 *
 * Windows of one browser share what is kept: a snapshot with its vector, and a log of patches behind it, each written
 * after those that its window had seen. So whatever a patch needs stands before it.
 *
 * @module
 */

/** @typedef {import("./replica.js").Entry} Entry */
/** @typedef {import("./replica.js").Kept} Kept */
/** @typedef {import("./wire.js").Vector} Vector */

/** When so many patches are in the log, a snapshot takes their place. */
export const LOG_MAX = 400;

export class Keep {
  /** @type {Promise<IDBDatabase> | undefined} */
  #database = undefined;
  #logged = 0;
  /** @type {Set<Entry>} Made here, and not in the database yet. */
  #late = new Set();

  /** @param {string} place the name of the database: see `places.js` */
  constructor(place) {
    this.place = place;
  }

  /** What is kept. Where the browser keeps nothing, nothing. @returns {Promise<Kept>} */
  async load() {
    try {
      /** @type {Kept} */
      const kept = { log: [] };
      await this.#run("readonly", (log, snapshots) => {
        log.getAll().onsuccess = (event) => (kept.log = result(event));
        snapshots.get(0).onsuccess = (event) => (kept.snapshot = result(event));
      });
      this.#logged = kept.log.length;
      await this.#takeLate(kept);
      return kept;
    } catch {
      return { log: [] };
    }
  }

  /** What windows wrote down in the moment of closing. @param {Kept} kept */
  async #takeLate(kept) {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(`${this.place}/late/`));
    for (const name of names) {
      try {
        /** @type {Entry[]} */
        const entries = JSON.parse(localStorage.getItem(name) ?? "[]").map((/** @type {any} */ entry) => ({
          ...entry,
          bytes: Uint8Array.from(entry.bytes),
        }));
        kept.log.push(...entries.map((entry) => ({ ...entry, own: true })));
        await this.append(entries, true);
        localStorage.removeItem(name);
      } catch (error) {
        // One that can't be read, or not moved yet, is no reason to begin without all the others. It stays where it is.
        console.info(`what was kept at ${name} was not taken over`, error);
      }
    }
  }

  /**
   * Writes down what the database has not taken yet. The window may be gone before it has, so this is done in the one
   * way that is done when it returns.
   */
  close() {
    if (this.#late.size === 0) return;
    const entries = [...this.#late].map((entry) => ({ ...entry, bytes: [...entry.bytes] }));
    try {
      localStorage.setItem(`${this.place}/late/${entries[0].sid}-${entries[0].time}`, JSON.stringify(entries));
    } catch {
      // A browser that keeps nothing has said so before.
    }
  }

  /**
   * Adds patches behind those that are there.
   *
   * @param {Entry[]} entries
   * @param {boolean} own whether they were made here, and may not have reached the node
   */
  async append(entries, own) {
    this.#logged += entries.length;
    if (own) for (const entry of entries) this.#late.add(entry);
    await this.#run("readwrite", (log) => {
      for (const entry of entries) log.add({ ...entry, own });
    });
    for (const entry of entries) this.#late.delete(entry);
  }

  /** Whether the log is long. */
  get isLong() {
    return this.#logged >= LOG_MAX;
  }

  /**
   * Puts a snapshot in the place of the patches that it contains. Another window may have put one with more in it; then
   * nothing happens.
   *
   * @param {Uint8Array} bytes the document, with all that is in the log
   * @param {Vector} vector what of it the node has
   */
  async fold(bytes, vector) {
    this.#logged = 0;
    const contained = new Map(vector);
    const has = (/** @type {number} */ sid, /** @type {number} */ last) => last <= (contained.get(sid) ?? 0);
    await this.#run("readwrite", (log, snapshots) => {
      snapshots.get(0).onsuccess = (event) => {
        const present = result(event);
        if (present && [...present.vector].some(([sid, last]) => !has(sid, last))) return;
        snapshots.put({ bytes, vector: contained }, 0);
        log.openCursor().onsuccess = (found) => {
          const cursor = result(found);
          if (!cursor) return;
          if (has(cursor.value.sid, cursor.value.last)) cursor.delete();
          cursor.continue();
        };
      };
    });
  }

  /**
   * @param {IDBTransactionMode} mode
   * @param {(log: IDBObjectStore, snapshots: IDBObjectStore) => void} action
   * @returns {Promise<void>} when the transaction is done
   */
  async #run(mode, action) {
    this.#database ??= open(this.place);
    const database = await this.#database;
    return new Promise((resolve, reject) => {
      // Typing is fast: what the disk itself has to keep, the node keeps.
      const transaction = database.transaction(["log", "snapshots"], mode, { durability: "relaxed" });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
      action(transaction.objectStore("log"), transaction.objectStore("snapshots"));
    });
  }
}

/** @param {Event} event */
const result = (event) => /** @type {any} */ (event.target).result;

/** @param {string} place @returns {Promise<IDBDatabase>} */
function open(place) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(place, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("log", { autoIncrement: true });
      request.result.createObjectStore("snapshots");
    };
    request.onsuccess = () => {
      // A newer page wants to change the database: let it, rather than block it.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
}
