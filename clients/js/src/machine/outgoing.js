/** The writes of this client on their way to the server, and what becomes of each by its answer. @module */

import { reasonOf, tooLarge } from "./problems.js";

/** @typedef {import("./documents.js").Documents} Documents */
/** @typedef {import("./documents.js").Followed} Followed */
/** @typedef {import("./messages.js").Outputs} Outputs */

/** How long a push may stay without an answer; then the connection counts as dead. */
export const ANSWER_WAIT_MS = 10_000;
/** A larger push gets longer, for those who can't send faster than this. */
export const UPLOAD_BYTES_PER_S_MIN = 16 * 1024;
/** The first pause before a write is sent again that nothing was decided about; it doubles each time. */
export const RETRY_PAUSE_MIN_MS = 1000;
/** The longest such pause, whatever the server or a proxy says. */
export const RETRY_PAUSE_MAX_MS = 30_000;
/** So many times something between may answer in place of the server; then the user is told, once for the write. */
export const TRIES_UNTOLD_MAX = 2;
/** So many connections may break over one write because a message was too big; then it is that write. */
export const TOO_BIG_MAX = 2;

export class Outgoing {
  #outputs;
  #documents;
  #clientId;
  /** The largest message that the server takes, as far as it said. */
  #messageBytesMax = Infinity;

  /**
   * @param {Outputs} outputs
   * @param {Documents} documents
   * @param {string} clientId
   */
  constructor(outputs, documents, clientId) {
    this.#outputs = outputs;
    this.#documents = documents;
    this.#clientId = clientId;
  }

  /** Whether a push waits for its answer: then the connection is watched by that. */
  get isWaiting() {
    return this.#documents.all.some(({ inFlight }) => inFlight);
  }

  /** @param {{ limits?: { messageBytes?: number } }} welcome */
  onWelcome({ limits }) {
    this.#messageBytesMax = limits?.messageBytes ?? Infinity;
  }

  /** The pause of a write is over. @param {string} [documentId] of one document, else of all */
  onRetry(documentId) {
    for (const followed of this.#documents.all) {
      if (documentId !== undefined && documentId !== followed.manager.documentId) continue;
      followed.resting = false;
      this.push(followed);
    }
  }

  /** The user or the network gives reason to try everything again at once. */
  forgiveAll() {
    for (const followed of this.#documents.all) followed.undecided = 0;
  }

  /**
   * A document has caught up. A write that the last connections could not bring to the server, or that brought them down,
   * waits longer each time, so that it neither keeps others from going nor the connection from staying.
   *
   * @param {Followed} followed
   * @param {number} random
   */
  onLive(followed, random) {
    if (followed.undecided > 1 && !followed.inFlight) this.#rest(followed, pauseAfter(followed.undecided - 1), random);
    this.push(followed);
  }

  /**
   * Sends the oldest write of a document. One at a time: so a write that is refused is never followed by a later one.
   *
   * @param {Followed} followed
   */
  push(followed) {
    if (!followed.live || followed.inFlight || followed.resting || followed.manager.version < followed.waitFor) return;
    const isNew = !followed.manager.isUndecided;
    const push = followed.manager.nextPush();
    if (!push) return;
    // By HTTP the client's id is in the message; so the one bound is for both.
    followed.sentBytes = utf8Length(JSON.stringify({ ...push, clientId: this.#clientId }));
    if (followed.sentBytes > this.#messageBytesMax) {
      return this.#hold(followed, tooLarge(followed.sentBytes, this.#messageBytesMax), { isDecided: isNew });
    }
    followed.inFlight = true;
    followed.pushedOn = followed.manager.version;
    // That it is on its way must outlive this client.
    if (push.op === "create") this.#outputs.save(push.documentId);
    this.#outputs.send(push);
    this.#awaitAnswers();
  }

  /**
   * @param {any} answer
   * @param {number} random
   */
  onAnswer(answer, random) {
    const followed = this.#documents.get(answer.documentId);
    if (!followed) return;
    followed.inFlight = false;
    this.#awaitAnswers();
    if (answer.type === "pushed") {
      this.#answered(followed);
      followed.manager.onPushed(answer);
      this.#outputs.changed(answer.documentId);
      this.push(followed);
    } else if (answer.clientSeq === followed.manager.nextSeq) {
      this.#onRejected(followed, answer, random);
    } else {
      // The refused write is gone or has moved on since; the one that is the oldest now goes out.
      this.push(followed);
    }
  }

  /** A create whose fate was not known was not taken. @param {Followed} followed */
  notTaken(followed) {
    const conflicts = followed.manager.onNotTaken();
    const { documentId } = followed.manager;
    if (conflicts.length > 0) this.#outputs.emit({ type: "conflict", documentId, conflicts });
  }

  /**
   * The other end has closed the connection because a message of ours was too big (close code 1009): before all others
   * the largest that is under way. Once may be about something else, as a proxy may mean what the server sent.
   */
  onTooBig() {
    const [largest] = this.#documents.all.filter(({ inFlight }) => inFlight).sort((a, b) => b.sentBytes - a.sentBytes);
    if (!largest) return;
    largest.tooBig += 1;
    if (largest.tooBig < TOO_BIG_MAX || !largest.manager.isUndecided) return;
    largest.inFlight = false;
    this.#answered(largest);
    this.#hold(largest, tooLarge(largest.sentBytes), { isDecided: false });
  }

  /**
   * @param {Followed} followed
   * @param {any} rejected
   * @param {number} random
   */
  #onRejected(followed, { documentId, problem, current }, random) {
    const reason = reasonOf(problem);
    // Who refuses a fence, or finds it too large, says nothing about its number: it can't be held, and is asked about again.
    const isFenceRefused = (reason === "too-large" || reason === "refused") && followed.manager.pending[0]?.isFence;
    if (reason === "passing" || isFenceRefused) return this.#onPassing(followed, problem, random);
    this.#answered(followed);
    if (reason === "too-large" || reason === "refused") {
      // What was sent may be gone since, or have been rebased: then what is the oldest now is asked about itself.
      if (!followed.manager.isUndecided) return this.push(followed);
      return this.#hold(followed, problem, { isDecided: reason === "refused" });
    }
    this.notTaken(followed);
    if (reason === "sequence-gap") {
      followed.manager.renumber(problem.expected);
      this.push(followed);
    } else {
      const actual = current?.version ?? problem.actual;
      if (actual > followed.manager.version) followed.waitFor = actual;
      // The events came first: the write is rebased already.
      else if (followed.pushedOn < followed.manager.version) this.push(followed);
      // Refused though nothing is newer: what is held here is not what the server holds. Its snapshot puts that right.
      else this.#documents.subscribe(followed, {});
    }
  }

  /**
   * Nothing is decided: the same write is sent again, later each time.
   *
   * @param {Followed} followed
   * @param {any} problem
   * @param {number} random
   */
  #onPassing(followed, problem, random) {
    followed.undecided += 1;
    if (problem.isBetween) {
      followed.between += 1;
      const { documentId } = followed.manager;
      if (followed.between === TRIES_UNTOLD_MAX + 1) this.#outputs.emit({ type: "error", problem, documentId });
    }
    const saidMs = Number(problem.retryAfterMs);
    this.#rest(followed, saidMs > 0 ? saidMs : pauseAfter(followed.undecided), random);
  }

  /**
   * @param {Followed} followed
   * @param {number} pauseMs
   * @param {number} random
   */
  #rest(followed, pauseMs, random) {
    followed.resting = true;
    const delayMs = Math.min(RETRY_PAUSE_MAX_MS, pauseMs) + Math.round(500 * random);
    this.#outputs.setTimer("retry", delayMs, followed.manager.documentId);
  }

  /**
   * The oldest write can't go: it is told, once, and kept; those behind it go on.
   *
   * @param {Followed} followed
   * @param {any} problem
   * @param {{ isDecided: boolean }} options
   */
  #hold(followed, problem, options) {
    const { documentId } = followed.manager;
    const held = followed.manager.holdOldest(problem, options);
    this.#outputs.changed(documentId);
    if (held) this.#outputs.emit({ type: "refused", documentId, lost: held.after, problem });
    this.push(followed);
  }

  /**
   * The confirmed state contains a further own write, so the oldest is another one: what became of connections over the last one
   * says nothing about it.
   *
   * @param {Followed} followed
   */
  onContained(followed) {
    this.#answered(followed);
  }

  /** @param {Followed} followed */
  #answered(followed) {
    followed.undecided = followed.between = followed.tooBig = 0;
  }

  #awaitAnswers() {
    const bytes = this.#documents.all.filter(({ inFlight }) => inFlight).map(({ sentBytes }) => sentBytes);
    if (bytes.length === 0) return this.#outputs.clearTimer("answer");
    const uploadMs = Math.floor(Math.max(...bytes) / UPLOAD_BYTES_PER_S_MIN) * 1000;
    this.#outputs.setTimer("answer", ANSWER_WAIT_MS + uploadMs);
  }
}

/** @param {number} tries */
const pauseAfter = (tries) => Math.min(RETRY_PAUSE_MAX_MS, RETRY_PAUSE_MIN_MS * 2 ** (tries - 1));

const encoder = new TextEncoder();

/** @param {string} text */
const utf8Length = (text) => encoder.encode(text).length;
