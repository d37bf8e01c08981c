/** The documents that are followed, and what the server is asked to send of them. @module */

import { StateManager } from "../state-manager.js";

/** @typedef {import("../json.js").Json} Json */
/** @typedef {import("../state-manager.js").DocumentRecord} DocumentRecord */
/** @typedef {import("./messages.js").Outputs} Outputs */

/** A document that is followed.
 *
 * @typedef {object} Followed
 * @property {StateManager} manager
 * @property {boolean} live whether it has caught up on this connection
 * @property {boolean} inFlight whether a push of it waits for its answer
 * @property {number} sentBytes how large the last push was
 * @property {boolean} resting whether the oldest write waits before it is sent again
 * @property {number} undecided how often the oldest write was sent without an answer that decides about it
 * @property {number} between how often something else answered in place of the server since the last decision
 * @property {number} tooBig how often a connection was closed over the oldest write, as a message was too big
 * @property {number} pushedOn the version that the last push was made on
 * @property {number} waitFor push nothing before the confirmed state has this version
 * @property {Json} shown what this client shows of itself on it; `null` for nothing
 * @property {Map<string, Json>} others what others show
 */

export class Documents {
  /** @type {Map<string, Followed>} */
  #followed = new Map();
  #clockOffsetMs = 0;
  #outputs;
  #isGreeted;

  /**
   * @param {Outputs} outputs
   * @param {() => boolean} isGreeted whether what is followed from now on must be asked for separately
   */
  constructor(outputs, isGreeted) {
    this.#outputs = outputs;
    this.#isGreeted = isGreeted;
  }

  /** @param {string} documentId */
  get(documentId) {
    return this.#followed.get(documentId);
  }

  get ids() {
    return [...this.#followed.keys()];
  }

  get all() {
    return [...this.#followed.values()];
  }

  /** How many writes wait for their answer, over all documents. */
  get unsent() {
    let unsent = 0;
    for (const { manager } of this.#followed.values()) unsent += manager.unsent;
    return unsent;
  }

  /** What a hello asks for. */
  get resumes() {
    /** @type {Record<string, object>} */
    const resumes = {};
    for (const [documentId, { manager }] of this.#followed) resumes[documentId] = resume(manager);
    return resumes;
  }

  /**
   * Follows a document, and asks for it if it was not followed before.
   *
   * @param {string} documentId
   * @param {Omit<ConstructorParameters<typeof StateManager>[0], "documentId">} options
   * @param {DocumentRecord} [record]
   * @param {(followed: Followed) => void} [first] what is done before it is asked for
   * @returns {Followed}
   */
  open(documentId, options, record, first = () => {}) {
    const known = this.#followed.get(documentId);
    const followed = known ?? follow(new StateManager({ documentId, ...options }), record);
    followed.manager.clockOffsetMs = this.#clockOffsetMs;
    first(followed);
    this.#followed.set(documentId, followed);
    if (!known && this.#isGreeted()) this.subscribe(followed);
    return followed;
  }

  /** @param {string} documentId */
  close(documentId) {
    const followed = this.#followed.get(documentId);
    // A document with writes under way stays until they are answered.
    if (!followed || followed.manager.pending.length > 0) return;
    this.#followed.delete(documentId);
    if (this.#isGreeted()) this.#outputs.send({ type: "unsubscribe", documents: [documentId] });
  }

  /**
   * Asks for a document again, from where it is here or from somewhere else.
   *
   * @param {Followed} followed
   * @param {object} [from]
   */
  subscribe(followed, from = resume(followed.manager)) {
    followed.live = false;
    this.#outputs.send({ type: "subscribe", documents: { [followed.manager.documentId]: from } });
  }

  /** @param {number} offsetMs how far the server's clock is ahead of this client's */
  onClock(offsetMs) {
    this.#clockOffsetMs = offsetMs;
    for (const { manager } of this.#followed.values()) manager.clockOffsetMs = offsetMs;
  }

  /** The connection is lost. */
  cutOff() {
    for (const followed of this.#followed.values()) {
      followed.live = false;
      if (followed.inFlight) followed.undecided += 1;
      followed.inFlight = false;
      if (followed.resting) this.#outputs.clearTimer("retry", followed.manager.documentId);
      followed.resting = false;
      // A server that was set back may never come to that version.
      followed.waitFor = 0;
      // Whether the write is stored will be seen when its event comes, or by sending it again, which changes nothing.
      followed.manager.storedAt = undefined;
    }
  }
}

/**
 * @param {StateManager} manager
 * @param {DocumentRecord} [record]
 * @returns {Followed}
 */
function follow(manager, record) {
  if (record) manager.restore(record);
  const tries = { inFlight: false, sentBytes: 0, resting: false, undecided: 0, between: 0, tooBig: 0 };
  return { manager, live: false, ...tries, pushedOn: 0, waitFor: 0, shown: null, others: new Map() };
}

/**
 * Where a document goes on: after the last event that is held, or with the latest state when nothing is. One that is
 * made here goes on from nothing. The event is named, so that a server that was set back, and has another one of that
 * number since, sends its state.
 *
 * @param {StateManager} manager
 */
function resume({ version, timestamp, pending }) {
  if (version > 0 && timestamp !== undefined) return { cursor: version, timestamp };
  return version > 0 || pending.length > 0 ? { cursor: version } : {};
}
