/** Keeps records in the browser's IndexedDB: they outlive the tab and the browser. @module */

/** @typedef {import("../state-manager.js").DocumentRecord} DocumentRecord */

import { countWrites } from "./memory.js";

const RECORDS = "records";

/** @implements {import("./memory.js").Store} */
export class IndexedDbStore {
  /** @type {Promise<IDBDatabase> | undefined} While it is open, or being opened. */
  #database = undefined;

  /** @param {string} [name] the database's name */
  constructor(name = "weft-eventsync") {
    this.name = name;
  }

  /** @param {string} clientId */
  async load(clientId) {
    return this.#run("readonly", (records) => records.getAll(ofClient(clientId)));
  }

  /**
   * @param {string} clientId
   * @param {DocumentRecord} record
   */
  async put(clientId, record) {
    await this.#run("readwrite", (records) => records.put(record, [clientId, record.documentId]));
  }

  /**
   * @param {string} clientId
   * @param {string} documentId
   */
  async delete(clientId, documentId) {
    await this.#run("readwrite", (records) => records.delete([clientId, documentId]));
  }

  async clients() {
    /** @type {Map<string, { unsent: number, held: number }>} */
    const clients = new Map();
    const keys = /** @type {[string, string][]} */ (await this.#run("readonly", (records) => records.getAllKeys()));
    for (const key of keys) {
      const record = await this.#run("readonly", (records) => records.get(key));
      const { unsent = 0, held = 0 } = clients.get(key[0]) ?? {};
      const more = countWrites(record ? [record] : []);
      clients.set(key[0], { unsent: unsent + more.unsent, held: held + more.held });
    }
    return [...clients].map(([clientId, counts]) => ({ clientId, ...counts }));
  }

  /**
   * @param {IDBTransactionMode} mode
   * @param {(records: IDBObjectStore) => IDBRequest} action
   * @returns {Promise<any>} the result, when the transaction is durable
   */
  async #run(mode, action) {
    this.#database ??= this.#open();
    const database = await this.#database;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(RECORDS, mode, { durability: "strict" });
      const request = action(transaction.objectStore(RECORDS));
      // Nothing more is to come in it. A page that is being left has no time to wait until the browser sees that.
      if (mode === "readwrite") transaction.commit();
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  /** @returns {Promise<IDBDatabase>} */
  #open() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(this.name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(RECORDS);
      request.onsuccess = () => {
        // Another page wants to change or delete the database: let it, rather than block it. What is kept next opens it
        // again, and fails only if it has become one that this page does not know.
        request.result.onversionchange = () => {
          this.#database = undefined;
          request.result.close();
        };
        // The browser closed it, as when the user clears what sites keep.
        request.result.onclose = () => {
          this.#database = undefined;
        };
        resolve(request.result);
      };
      request.onerror = () => {
        // The next one tries again.
        this.#database = undefined;
        reject(request.error);
      };
    });
  }
}

/** @param {string} clientId */
const ofClient = (clientId) => IDBKeyRange.bound([clientId], [clientId, []]);
