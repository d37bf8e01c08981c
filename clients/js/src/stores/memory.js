/** Keeps records in memory: for tests, and where nothing durable is to be had. @module */

/** @typedef {import("../state-manager.js").DocumentRecord} DocumentRecord */

/** Where a client keeps its documents and unsent writes.
 *
 * @typedef {object} Store
 * @property {(clientId: string) => Promise<DocumentRecord[]>} load
 * @property {(clientId: string, record: DocumentRecord) => Promise<void>} put durable when it resolves
 * @property {(clientId: string, documentId: string) => Promise<void>} delete
 * @property {() => Promise<{ clientId: string, unsent: number, held: number }[]>} clients who has records here
 */

/** How many writes some records hold. @param {DocumentRecord[]} records */
export const countWrites = (records) => ({
  unsent: records.reduce((sum, { pending }) => sum + pending.length, 0),
  held: records.reduce((sum, { held = [] }) => sum + held.length, 0),
});

/** @implements {Store} */
export class MemoryStore {
  /** @type {Map<string, Map<string, DocumentRecord>>} */
  #clients = new Map();

  /** @param {string} clientId */
  async load(clientId) {
    return [...(this.#clients.get(clientId)?.values() ?? [])];
  }

  /**
   * @param {string} clientId
   * @param {DocumentRecord} record
   */
  async put(clientId, record) {
    const records = this.#clients.get(clientId) ?? new Map();
    this.#clients.set(clientId, records.set(record.documentId, structuredClone(record)));
  }

  /**
   * @param {string} clientId
   * @param {string} documentId
   */
  async delete(clientId, documentId) {
    this.#clients.get(clientId)?.delete(documentId);
  }

  async clients() {
    return [...this.#clients].map(([clientId, records]) => ({
      clientId,
      ...countWrites([...records.values()]),
    }));
  }
}
