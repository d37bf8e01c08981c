/** The feed of all documents: where it is, and whether it has caught up. @module */

/** @typedef {import("../state-manager.js").Event} Event */
/** @typedef {import("./messages.js").Outputs} Outputs */

export class Collection {
  /** @type {number | undefined} The position that the collection is followed from. */
  position = undefined;
  /** @type {number | undefined} When the event at that position was made, as far as known. */
  #time = undefined;
  #live = false;
  #outputs;

  /** @param {Outputs} outputs */
  constructor(outputs) {
    this.#outputs = outputs;
  }

  /** Whether nothing of it is missing; so it is if nobody follows it. */
  get isLive() {
    return this.position === undefined || this.#live;
  }

  /** What a hello asks for. @returns {{ collection?: object }} */
  get resume() {
    if (this.position === undefined) return {};
    return { collection: { cursor: this.position, ...(this.#time !== undefined && { timestamp: this.#time }) } };
  }

  /** Goes on from somewhere. @param {number | undefined} position */
  moveTo(position) {
    this.position = position;
    this.#time = undefined;
    this.#live = false;
  }

  /** @param {Event} event */
  onEvent(event) {
    if (this.position !== undefined && event.position <= this.position) return;
    this.position = event.position;
    this.#time = event.timestamp;
    this.#outputs.emit({ type: "collection", event });
  }

  /** @param {number} position */
  onLive(position) {
    this.#live = true;
    this.#outputs.emit({ type: "collectionLive", position });
  }

  /** @param {number} [position] where the server goes on */
  onResync(position = this.position) {
    this.moveTo(position);
    this.#outputs.emit({ type: "collectionLost", position: position ?? 0 });
  }

  /** The connection is lost. */
  cutOff() {
    this.#live = false;
  }
}
