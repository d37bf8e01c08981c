/** What the server says of documents: their events, their snapshots, and that all is here. @module */

import { PatchError } from "../json-patch.js";

/** @typedef {import("../state-manager.js").Event} Event */
/** @typedef {import("./documents.js").Documents} Documents */
/** @typedef {import("./documents.js").Followed} Followed */
/** @typedef {import("./messages.js").Outputs} Outputs */
/** @typedef {import("./outgoing.js").Outgoing} Outgoing */

export class Incoming {
  #outputs;
  #documents;
  #outgoing;

  /**
   * @param {Outputs} outputs
   * @param {Documents} documents
   * @param {Outgoing} outgoing
   */
  constructor(outputs, documents, outgoing) {
    this.#outputs = outputs;
    this.#documents = documents;
    this.#outgoing = outgoing;
  }

  /** @param {Event} event */
  onEvent(event) {
    const followed = this.#documents.get(event.documentId);
    if (!followed) return;
    const { nextSeq } = followed.manager;
    try {
      const { outcome, conflicts } = followed.manager.onEvent(event);
      if (outcome === "known") return;
      if (outcome === "gap") return this.#documents.subscribe(followed);
      this.#confirmed(followed, conflicts, nextSeq);
      this.#outputs.emit({ type: "event", event });
    } catch (error) {
      if (!(error instanceof PatchError)) throw error;
      // The state is not what the server thinks it is. Its snapshot puts that right.
      const { documentId } = event;
      this.#outputs.emit({ type: "error", problem: { title: "an event does not apply", detail: error.message }, documentId });
      this.#documents.subscribe(followed, {});
    }
  }

  /** @param {import("../state-manager.js").Snapshot & { documentId: string }} snapshot */
  onSnapshot(snapshot) {
    const followed = this.#documents.get(snapshot.documentId);
    if (!followed) return;
    const { nextSeq } = followed.manager;
    this.#confirmed(followed, followed.manager.onSnapshot(snapshot), nextSeq);
    this.#outputs.emit({ type: "snapshot", documentId: snapshot.documentId, version: snapshot.version });
  }

  /**
   * @param {Followed} followed
   * @param {import("../conflict-resolver.js").Conflict[]} conflicts
   * @param {number} nextSeq the number that the oldest write had
   */
  #confirmed(followed, conflicts, nextSeq) {
    const { documentId } = followed.manager;
    if (followed.manager.nextSeq > nextSeq) this.#outgoing.onContained(followed);
    this.#outputs.changed(documentId);
    if (conflicts.length > 0) this.#outputs.emit({ type: "conflict", documentId, conflicts });
    this.#outgoing.push(followed);
  }

  /**
   * A document has caught up.
   *
   * @param {Followed} followed
   * @param {number} version
   */
  onLive(followed, version) {
    followed.live = true;
    // All events up to now are here: a create of an earlier connection that is not among them was not taken.
    if (!followed.inFlight) this.#outgoing.notTaken(followed);
    this.#outputs.emit({ type: "live", documentId: followed.manager.documentId, version });
  }
}
