/** Keeps records in files, for Node: one per client, replaced whole, so that a crash leaves the old or the new one. @module */

import { mkdir, open, readdir, readFile, rename } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { countWrites } from "./memory.js";

/** @typedef {import("../state-manager.js").DocumentRecord} DocumentRecord */

/** @implements {import("./memory.js").Store} */
export class FileStore {
  /** @type {Map<string, Map<string, DocumentRecord>>} */
  #clients = new Map();
  /** @type {Promise<unknown>} Writes go one after the other: the last one put is the one that stays. */
  #writing = Promise.resolve();

  /** @param {string} directory */
  constructor(directory) {
    this.directory = directory;
  }

  /** @param {string} clientId */
  async load(clientId) {
    return [...(await this.#records(clientId)).values()];
  }

  /**
   * @param {string} clientId
   * @param {DocumentRecord} record
   */
  put(clientId, record) {
    return this.#change(clientId, (records) => records.set(record.documentId, record));
  }

  /**
   * @param {string} clientId
   * @param {string} documentId
   */
  delete(clientId, documentId) {
    return this.#change(clientId, (records) => records.delete(documentId));
  }

  async clients() {
    const made = await mkdir(this.directory, { recursive: true });
    if (made !== undefined) await syncFolders(this.directory, made);
    const names = (await readdir(this.directory)).filter((name) => name.endsWith(".json"));
    return Promise.all(
      names.map(async (name) => {
        const clientId = decodeURIComponent(name.slice(0, -".json".length));
        const records = await this.load(clientId);
        return { clientId, ...countWrites(records) };
      }),
    );
  }

  /** @param {string} clientId */
  async #records(clientId) {
    const held = this.#clients.get(clientId);
    if (held) return held;
    /** @type {Map<string, DocumentRecord>} */
    let records = new Map();
    try {
      /** @type {DocumentRecord[]} */
      const list = JSON.parse(await readFile(this.#path(clientId), "utf8"));
      records = new Map(list.map((record) => [record.documentId, record]));
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== "ENOENT") throw error;
    }
    this.#clients.set(clientId, records);
    return records;
  }

  /**
   * @param {string} clientId
   * @param {(records: Map<string, DocumentRecord>) => void} change
   */
  async #change(clientId, change) {
    const done = this.#writing.then(async () => {
      const records = await this.#records(clientId);
      change(records);
      const made = await mkdir(this.directory, { recursive: true });
      const path = this.#path(clientId);
      const file = await open(`${path}.new`, "w");
      try {
        await file.writeFile(JSON.stringify([...records.values()]));
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(`${path}.new`, path);
      await syncFolders(this.directory, made);
    });
    // One that failed does not keep the next one from trying.
    this.#writing = done.catch(() => {});
    await done;
  }

  /** @param {string} clientId */
  #path(clientId) {
    return join(this.directory, `${encodeURIComponent(clientId)}.json`);
  }
}

/**
 * Makes the names in a folder durable: a file's new name is in the folder, and only syncing that keeps it over a power
 * cut. So is the folder's own in the one above, when it was made just now.
 *
 * @param {string} folder
 * @param {string | undefined} made the uppermost folder that was made for it
 */
async function syncFolders(folder, made) {
  // Windows opens no folders, and keeps names in its journal.
  if (process.platform === "win32") return;
  const last = made === undefined ? resolve(folder) : dirname(resolve(made));
  for (let each = resolve(folder); ; each = dirname(each)) {
    const handle = await open(each, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (each === last) return;
  }
}
