/** The writes of this client on their way to the server, and what becomes of each by its answer. @module */

/** @typedef {import("./documents.js").Documents} Documents */
/** @typedef {import("./documents.js").Followed} Followed */
/** @typedef {import("./messages.js").Outputs} Outputs */

/** How long a push may stay without an answer; then the connection counts as dead. */
export const ANSWER_WAIT_MS = 10_000;

/** Problems that decide nothing: the write may have been taken, or be taken later. The same one is sent again. */
const PASSING = new Set(["unavailable", "too-many", "too-slow", "internal", "idempotency-in-progress"]);
/** Problems that say "others were faster": the write waits for their events, then goes out rebased. */
const OUTDATED = new Set(["version-mismatch", "already-exists", "unknown-document"]);

export class Outgoing {
  #outputs;
  #documents;

  /**
   * @param {Outputs} outputs
   * @param {Documents} documents
   */
  constructor(outputs, documents) {
    this.#outputs = outputs;
    this.#documents = documents;
  }

  pushAll() {
    for (const followed of this.#documents.all) this.push(followed);
  }

  /**
   * Sends the oldest write of a document. One at a time: so a write that is refused is never followed by a later one.
   *
   * @param {Followed} followed
   */
  push(followed) {
    if (!followed.live || followed.inFlight || followed.manager.version < followed.waitFor) return;
    const push = followed.manager.nextPush();
    if (!push) return;
    followed.inFlight = true;
    followed.pushedOn = followed.manager.version;
    // That it is on its way must outlive this client.
    if (push.op === "create") this.#outputs.save(push.documentId);
    this.#outputs.send(push);
    this.#outputs.setTimer("answer", ANSWER_WAIT_MS);
  }

  /**
   * @param {any} answer
   * @param {number} random
   */
  onAnswer(answer, random) {
    const followed = this.#documents.get(answer.documentId);
    if (!followed) return;
    followed.inFlight = false;
    if (this.#documents.all.some(({ inFlight }) => inFlight)) this.#outputs.setTimer("answer", ANSWER_WAIT_MS);
    else this.#outputs.clearTimer("answer");
    if (answer.type === "pushed") {
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
   * @param {Followed} followed
   * @param {any} rejected
   * @param {number} random
   */
  #onRejected(followed, { documentId, problem, current }, random) {
    const kind = String(problem.type).replace("urn:weft:problem:", "");
    if (PASSING.has(kind) || problem.status >= 500) {
      this.#outputs.setTimer("retry", (problem.retryAfterMs ?? 1000) + Math.round(500 * random));
      return;
    }
    this.notTaken(followed);
    if (kind === "sequence-gap") {
      followed.manager.renumber(problem.expected);
      this.push(followed);
    } else if (OUTDATED.has(kind)) {
      const actual = current?.version ?? problem.actual;
      if (actual > followed.manager.version) followed.waitFor = actual;
      // The events came first: the write is rebased already.
      else if (followed.pushedOn < followed.manager.version) this.push(followed);
      // Refused though nothing is newer: what is held here is not what the server holds. Its snapshot puts that right.
      else this.#documents.subscribe(followed, {});
    } else {
      const lost = followed.manager.dropOldest();
      this.#outputs.changed(documentId);
      this.#outputs.emit({ type: "refused", documentId, lost, problem });
      this.push(followed);
    }
  }
}
