/**
 * The server's side of the protocol for one document, small enough to be read in one look: what the simulation of the
 * client runs against. The real server is met in the tests of the games.
 */

import { applyPatch, diff } from "../src/json-patch.js";
import { equal } from "../src/json.js";

export class ModelServer {
  version = 0;
  state = null;
  /** By client: how many of its writes the events contain. */
  vector = Object.create(null);
  /** By client: the numbers it has used, and the version that each led to. Some changed nothing and have no event. */
  used = Object.create(null);
  events = [];
  /** Whether a write that changes nothing makes no event, as with the real one. */
  isQuiet = false;
  /** Events up to here are compacted away. */
  compacted = 0;
  /** Pushes that were answered `unavailable`, while nobody knows whether they will be done. */
  stalled = [];

  commit(clientId, clientSeq, after) {
    const sequenceNum = ++this.version;
    this.events.push({
      id: `g@${sequenceNum}`,
      documentId: "g",
      timestamp: sequenceNum,
      sequenceNum,
      position: sequenceNum,
      operation: this.state === null ? "create" : after === null ? "delete" : "update",
      diff: { version: sequenceNum, jsonPatch: diff(this.state, after), mergePatch: null },
      vectorClock: { [clientId]: clientSeq },
      clientId,
      clientSeq,
    });
    this.state = after;
    this.vector[clientId] = clientSeq;
    this.#use(clientId, clientSeq, sequenceNum);
    return sequenceNum;
  }

  #use(clientId, clientSeq, version) {
    (this.used[clientId] ??= [])[clientSeq - 1] = version;
  }

  snapshot() {
    return { type: "snapshot", documentId: "g", version: this.version, state: this.state, stateVector: { ...this.vector }, createdAt: this.version };
  }

  /** Goes back to what it was at a version. */
  restore(version) {
    this.events = this.events.slice(0, version);
    this.version = version;
    this.state = this.events.reduce((state, { diff }) => applyPatch(state, diff.jsonPatch), null);
    this.vector = Object.create(null);
    this.used = Object.create(null);
    for (const { clientId, clientSeq, sequenceNum } of this.events) {
      this.vector[clientId] = clientSeq;
      this.#use(clientId, clientSeq, sequenceNum);
    }
    this.compacted = Math.min(this.compacted, version);
    this.stalled = [];
  }

  /** Takes a push that has its turn, and says that it can't tell what will become of it. */
  stall(clientId, push) {
    if (push.clientSeq !== (this.used[clientId]?.length ?? 0) + 1) return this.push(clientId, push);
    this.stalled.push({ clientId, push });
    const problem = { type: "urn:weft:problem:unavailable", status: 503, retryAfterMs: 1000 };
    return { type: "rejected", documentId: "g", clientSeq: push.clientSeq, problem };
  }

  /** Does the oldest of what stalled, or forgets it. */
  recover(isDone) {
    const [next] = this.stalled.splice(0, 1);
    if (next && isDone) this.push(next.clientId, next.push);
  }

  /** What a subscription is answered with: everything after the cursor, then `live`. */
  subscribe({ cursor }) {
    const live = { type: "live", documentId: "g", version: this.version };
    if (cursor === undefined || cursor < this.compacted || cursor > this.version) return [this.snapshot(), live];
    return [{ type: "events", documentId: "g", events: this.events.slice(cursor) }, live];
  }

  push(clientId, { clientSeq, baseVersion, op, state, patch }) {
    const last = this.used[clientId]?.length ?? 0;
    const answer = { documentId: "g", clientSeq };
    if (clientSeq <= last) {
      return { type: "pushed", ...answer, version: this.used[clientId][clientSeq - 1] ?? this.version, repeated: true, changed: false };
    }
    const rejected = (kind, more) => ({
      type: "rejected",
      ...answer,
      problem: { type: `urn:weft:problem:${kind}`, ...more },
      current: { version: this.version, state: this.state },
    });
    if (clientSeq > last + 1) return rejected("sequence-gap", { expected: last + 1, actual: clientSeq });
    const actual = this.state === null ? 0 : this.version;
    if (baseVersion !== actual) return rejected("version-mismatch", { expected: baseVersion, actual });
    const after = op === "delete" ? null : op === "create" ? state : applyPatch(this.state, patch);
    if (this.isQuiet && equal(after, this.state)) {
      this.#use(clientId, clientSeq, this.version);
      return { type: "pushed", ...answer, version: this.version, repeated: false, changed: false };
    }
    return { type: "pushed", ...answer, version: this.commit(clientId, clientSeq, after), repeated: false, changed: true };
  }
}
