/** What clients show of themselves on a document while they are connected. @module */

import { equal } from "../json.js";

/** @typedef {import("../json.js").Json} Json */
/** @typedef {import("./documents.js").Documents} Documents */
/** @typedef {import("./documents.js").Followed} Followed */
/** @typedef {import("./messages.js").Outputs} Outputs */

export class Presence {
  #outputs;
  #documents;
  #isCarried;

  /**
   * @param {Outputs} outputs
   * @param {Documents} documents
   * @param {() => boolean} isCarried whether the transport carries presence
   */
  constructor(outputs, documents, isCarried) {
    this.#outputs = outputs;
    this.#documents = documents;
    this.#isCarried = isCarried;
  }

  /** @param {string} documentId @param {Json} data */
  show(documentId, data) {
    const followed = this.#documents.get(documentId);
    if (!followed || equal(followed.shown, data)) return;
    followed.shown = data;
    if (followed.live) this.#send(followed);
  }

  /** A document is live: what was shown is shown again. @param {Followed} followed */
  onLive(followed) {
    if (followed.shown !== null) this.#send(followed);
  }

  /** @param {Followed} followed */
  #send({ manager: { documentId }, shown }) {
    if (this.#isCarried()) this.#outputs.send({ type: "presence", documentId, data: shown });
  }

  /** @param {{ documentId: string, clientId: string, data: Json }} presence */
  onPresence({ documentId, clientId, data }) {
    const others = this.#documents.get(documentId)?.others;
    if (!others) return;
    if (data === null) others.delete(clientId);
    else others.set(clientId, data);
    this.#outputs.emit({ type: "presence", documentId, clientId, data });
  }

  /** The connection is lost: nobody is known to be here. */
  cutOff() {
    for (const { manager: { documentId }, others } of this.#documents.all) {
      for (const clientId of [...others.keys()]) this.onPresence({ documentId, clientId, data: null });
    }
  }
}
