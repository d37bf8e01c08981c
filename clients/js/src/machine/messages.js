/** What goes into the {@link SyncMachine} and what comes out of it. @module */

/** @typedef {import("../json.js").Json} Json */
/** @typedef {import("../state-manager.js").Event} Event */
/** @typedef {import("../state-manager.js").DocumentRecord} DocumentRecord */

/** @typedef {"websocket" | "sse" | "poll"} TransportName */

/** - `off`: not to be connected. `offline`: waiting to try again. `connecting`. `catching-up`: connected, history is
 * on the way. `live`: everything that is open has caught up.
 *
 * @typedef {"off" | "offline" | "connecting" | "catching-up" | "live"} Status
 */

/** There is one of each, but of `retry` one for each document.
 *
 * @typedef {"reconnect" | "welcome" | "heartbeat" | "answer" | "retry"} TimerName
 */

/** @typedef {(
 *   | { type: "connect" }
 *   | { type: "disconnect" }
 *   | { type: "transports", transports: TransportName[] }
 *   | { type: "network", online: boolean }
 *   | { type: "opened" }
 *   | { type: "message", message: any }
 *   | { type: "synced", message: any }
 *   | { type: "closed", code?: number, reason?: string }
 *   | { type: "token", token: string | undefined }
 *   | { type: "timer", name: TimerName, documentId?: string }
 *   | { type: "open", documentId: string, record?: DocumentRecord }
 *   | { type: "close", documentId: string }
 *   | { type: "show", documentId: string, data: Json }
 *   | { type: "watch", position: number }
 *   | { type: "write", documentId: string, state: Json, record?: DocumentRecord }
 *   | { type: "sendHeld", documentId: string, id: number }
 *   | { type: "dropHeld", documentId: string, id: number }
 * )} Input */

/** @typedef {(
 *   | { type: "open", transport: TransportName }
 *   | { type: "close" }
 *   | { type: "send", message: any }
 *   | { type: "setTimer", name: TimerName, delayMs: number, documentId?: string }
 *   | { type: "clearTimer", name: TimerName, documentId?: string }
 *   | { type: "save", documentId: string }
 *   | { type: "emit", event: ClientEvent }
 * )} Output */

/** What the application hears.
 *
 * @typedef {(
 *   | { type: "status", status: Status, transport: TransportName, unsent: number }
 *   | { type: "change", documentId: string }
 *   | { type: "event", event: Event }
 *   | { type: "snapshot", documentId: string, version: number }
 *   | { type: "live", documentId: string, version: number }
 *   | { type: "conflict", documentId: string, conflicts: import("../conflict-resolver.js").Conflict[] }
 *   | { type: "refused", documentId: string, lost: Json | undefined, problem: any }
 *   | { type: "collection", event: Event }
 *   | { type: "collectionLive", position: number }
 *   | { type: "collectionLost", position: number }
 *   | { type: "presence", documentId: string, clientId: string, data: Json }
 *   | { type: "error", problem: any, documentId?: string }
 * )} ClientEvent
 */

/** The outputs of one machine, in their order. */
export class Outputs {
  /** @type {Output[]} */
  #waiting = [];

  /** @returns {Output | undefined} */
  poll() {
    return this.#waiting.shift();
  }

  /** @param {Output} output */
  put(output) {
    this.#waiting.push(output);
  }

  /** @param {any} message */
  send(message) {
    this.put({ type: "send", message });
  }

  /**
   * @param {TimerName} name
   * @param {number} delayMs
   * @param {string} [documentId]
   */
  setTimer(name, delayMs, documentId) {
    this.put({ type: "setTimer", name, delayMs, ...(documentId !== undefined && { documentId }) });
  }

  /** @param {TimerName} name @param {string} [documentId] */
  clearTimer(name, documentId) {
    this.put({ type: "clearTimer", name, ...(documentId !== undefined && { documentId }) });
  }

  /** @param {string} documentId */
  save(documentId) {
    this.put({ type: "save", documentId });
  }

  /** @param {ClientEvent} event */
  emit(event) {
    this.put({ type: "emit", event });
  }

  /** A document looks different, or what is kept of it is. @param {string} documentId */
  changed(documentId) {
    this.save(documentId);
    this.emit({ type: "change", documentId });
  }
}
