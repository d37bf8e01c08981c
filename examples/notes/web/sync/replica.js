/**
 * This window's replica of the text, json-joy itself, and what it knows of the node: without IO.
 *
 * What is typed is in the model at once, and in `unsent` until the node has said that it is durable there. What the
 * node sends is in the model and in `vector`. Whatever is lost on the way is made up for by the next greeting, to which the
 * node answers what it lacks of what it had acknowledged: nothing, unless its store was emptied, put back from a copy, or is
 * another one. What this window still has of that it sends; see `strange` for the rest.
 *
 * @module
 */

import { Model, Patch } from "../vendor/json-joy.js";
import { decode, encodePatch, encodeState } from "./wire.js";

/** `{title: "", text: ""}`: what every replica starts from, a patch of the global session. The program has the same. */
const BASE = "0201f7051020205201657469746c650264746578740348800001";

/** So many bytes of patches are remembered beside those that are unsent, to bring back what a node has lost. */
const REMEMBERED_BYTES_MAX = 4 << 20;
/** Patches of more sessions are not brought back over one connection; the node takes no more. */
const BROUGHT_SESSIONS_MAX = 200;

/**
 * A patch in its envelope, as it is kept until it is durable.
 *
 * @typedef {{ sid: number, time: number, last: number, prev: number, bytes: Uint8Array }} Entry
 */
/** @typedef {import("./wire.js").Vector} Vector */
/**
 * What a window can begin with: a document that contains what `vector` says, and patches beyond it in an order in which
 * causes come first. Those with `own` were made in this browser and may not have reached the node.
 *
 * @typedef {{ snapshot?: { bytes: Uint8Array, vector: Vector }, log: (Entry & { own: boolean })[] }} Kept
 */

/** Tells in `detail` what there is to do and to know: see {@link Replica}. */
export class Replica extends EventTarget {
  /** @type {Vector} What the node has and this replica too. */
  vector = new Map();
  /** @type {Entry[]} In the order in which they were made. */
  unsent = [];
  /** Whether the node has sent everything that it had when it was greeted. */
  caughtUp = false;
  /** The id of the store that has all of `vector`, where that is known. @type {string | undefined} */
  store = undefined;
  /** Whether the node has been told everything that it lacks, so that it can take what is typed now. */
  #welcome = false;
  #withUnsent = true;
  /** What the node had lost, was sent back, and does not have yet. @type {Set<Entry>} */
  #brings = new Set();
  /** What came and what was made since this window was opened, oldest first. @type {Entry[]} */
  #remembered = [];
  #rememberedBytes = 0;
  #ownLast = 0;
  /** @type {{ vector: Vector, length: number, hash: string, parts: Uint8Array[], got: number } | undefined} */
  #incoming = undefined;

  /**
   * @param {string} name who this window is to its node
   * @param {{ sid?: number, kept?: Kept, store?: string }} [options] a session of its own, what was kept from before, and
   *   which store that is from
   */
  constructor(name, { sid = Model.sid(), kept = { log: [] }, store } = {}) {
    super();
    this.name = name;
    this.store = store;
    this.sid = sid;
    this.model = kept.snapshot ? Model.load(kept.snapshot.bytes, sid) : fresh(sid);
    if (kept.snapshot) this.vector = new Map(kept.snapshot.vector);
    for (const entry of kept.log) {
      this.model.applyPatch(Patch.fromBinary(entry.bytes));
      this.#remember(entry);
      if (entry.own) this.unsent.push(entry);
      else advance(this.vector, entry.sid, entry.last);
    }
  }

  /** @returns {string} */
  text(/** @type {"title" | "text"} */ key) {
    return this.str(key).view();
  }

  /** json-joy's node of a text. @param {"title" | "text"} key */
  str(key) {
    return this.model.api.str([key]).node;
  }

  /**
   * Edits the document, and tells `local` with the entry to keep, and `send` with the message if the node can take it now.
   * What would make a patch that is too large to be taken is `cut`: what was edited so far is sent by itself.
   *
   * @param {(api: any, cut: () => void) => void} edit
   */
  edit(edit) {
    edit(this.model.api, () => this.#flush());
    this.#flush();
  }

  #flush() {
    const patch = this.model.api.flush();
    const id = patch.getId();
    if (!id) return;
    const last = id.time + patch.span() - 1;
    const entry = { sid: id.sid, time: id.time, last, prev: this.#ownLast, bytes: patch.toBinary() };
    this.#ownLast = last;
    this.unsent.push(entry);
    this.#remember(entry);
    this.#tell("local", { entry });
    if (this.#welcome) this.#send([entry]);
  }

  /** @param {Entry} entry */
  #remember(entry) {
    this.#remembered.push(entry);
    this.#rememberedBytes += entry.bytes.length;
    while (this.#rememberedBytes > REMEMBERED_BYTES_MAX) {
      this.#rememberedBytes -= /** @type {Entry} */ (this.#remembered.shift()).bytes.length;
    }
  }

  /** Whether the node has not yet taken back what it had lost. */
  get brings() {
    return this.#brings.size > 0;
  }

  /**
   * What to say first on a new connection; the node's answer decides what is sent.
   *
   * @param {boolean} [withUnsent] whether the node may take what is unsent
   */
  greeting(withUnsent = true) {
    this.caughtUp = false;
    this.#welcome = false;
    this.#withUnsent = withUnsent;
    this.#brings = new Set();
    this.#incoming = undefined;
    return encodeState(this.name, this.vector);
  }

  /** @param {Entry[]} entries */
  #send(entries) {
    if (!this.#withUnsent || entries.length === 0) return;
    this.#tell("send", { messages: entries.map((entry) => encodePatch(entry.time - entry.prev, entry.bytes)) });
  }

  /**
   * Takes in a message of the node. Tells `remote` (entries to keep) or `snapshot` when the document changed by others,
   * `acknowledged` when patches are durable, `welcome` when the node's store is one to go on with, `caught-up`, and `presence`.
   * `strange` is told with the id of a store that lacks what this replica is built on, and that nobody here can bring back:
   * what is typed here could never be taken in there. With `isAwaited` it is for the node's peers to bring it.
   *
   * @param {Uint8Array} bytes
   */
  receive(bytes) {
    const message = decode(bytes);
    switch (message.kind) {
      case "welcome":
        return this.#welcomed(message);
      case "patches":
        return this.#patches(message.records);
      case "state":
        return this.#acknowledged(message.vector);
      case "digest":
        this.caughtUp = true;
        return this.#tell("caught-up", {});
      case "offer":
        this.#incoming = { ...message, parts: [], got: 0 };
        return this.#finish();
      case "part":
        return this.#part(message);
      case "presence":
        return this.#tell("presence", message);
    }
  }

  /** @param {{ store: string | undefined, sessions: number, lacks: import("./wire.js").Want[], takesBack: boolean }} greeted */
  #welcomed({ store, sessions, lacks, takesBack }) {
    // Without its proofs and links it would not be what the node's peers have: they bring it, if there are any.
    if (!takesBack && lacks.length > 0) return this.#tell("strange", { store, isAwaited: true });
    // Two texts of one name are not to be mixed. A session is drawn once: stores that share one have a common past.
    const isKin = lacks.length === 0 || sessions === 0 || (store !== undefined && store === this.store) || lacks.length < this.vector.size || lacks.some(({ after }) => after > 0);
    const lost = isKin ? this.#find(lacks) : undefined;
    if (lost === undefined) return this.#tell("strange", { store });
    const unsent = new Set(this.unsent);
    this.#welcome = true;
    this.store = store;
    // Each after what its author had seen. What was lost is as unsent as what was never sent: until the node has it again, a
    // snapshot that it sends can lack it.
    const remembered = this.#remembered.filter((entry) => lost.has(entry) || unsent.delete(entry));
    this.unsent = [...unsent, ...remembered];
    this.#brings = lost;
    this.#tell("welcome", { store });
    this.#send(this.unsent);
  }

  /**
   * The patches that a node has lost, if all of them are remembered.
   *
   * @param {import("./wire.js").Want[]} lacks
   * @returns {Set<Entry> | undefined}
   */
  #find(lacks) {
    if (lacks.length > BROUGHT_SESSIONS_MAX) return undefined;
    const at = new Map(lacks.map(({ sid, after }) => [sid, after]));
    const found = new Set();
    for (const entry of this.#remembered) {
      if (entry.prev !== at.get(entry.sid)) continue;
      at.set(entry.sid, entry.last);
      found.add(entry);
    }
    return lacks.every(({ sid, upto }) => (at.get(sid) ?? 0) >= upto) ? found : undefined;
  }

  /** @param {{ gap: number, patch: Uint8Array }[]} records */
  #patches(records) {
    const entries = [];
    this.#tell("before", {});
    for (const { gap, patch: bytes } of records) {
      const patch = Patch.fromBinary(bytes);
      const { sid, time } = /** @type {{ sid: number, time: number }} */ (patch.getId());
      const last = time + patch.span() - 1;
      this.model.applyPatch(patch);
      advance(this.vector, sid, last);
      const entry = { sid, time, last, prev: time - gap, bytes: bytes.slice() };
      this.#remember(entry);
      entries.push(entry);
    }
    this.#tell("remote", { entries });
  }

  /** @param {Vector} durable */
  #acknowledged(durable) {
    this.unsent = this.unsent.filter((entry) => {
      const isDurable = entry.last <= (durable.get(entry.sid) ?? 0);
      if (isDurable) this.#brings.delete(entry);
      return !isDurable;
    });
    for (const [sid, last] of durable) advance(this.vector, sid, last);
    this.#tell("acknowledged", {});
  }

  /** @param {{ hash: string, offset: number, bytes: Uint8Array }} part */
  #part({ hash, offset, bytes }) {
    const incoming = this.#incoming;
    if (!incoming || incoming.hash !== hash || incoming.got !== offset) throw new Error("a part of another snapshot");
    incoming.parts.push(bytes.slice());
    incoming.got += bytes.length;
    this.#finish();
  }

  #finish() {
    const incoming = this.#incoming;
    if (!incoming || incoming.got < incoming.length) return;
    this.#incoming = undefined;
    const bytes = new Uint8Array(incoming.length);
    let at = 0;
    for (const part of incoming.parts) {
      bytes.set(part, at);
      at += part.length;
    }
    this.#tell("before", {});
    // Our own session goes on: its next time is above all that is in there and all that is still on its way.
    const model = Model.load(bytes, this.sid);
    for (const entry of this.unsent) model.applyPatch(Patch.fromBinary(entry.bytes));
    this.model = model;
    for (const [sid, last] of incoming.vector) advance(this.vector, sid, last);
    this.#tell("snapshot", {});
  }

  /** @param {string} type @param {object} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {number} sid */
function fresh(sid) {
  const model = Model.create(undefined, sid);
  model.applyPatch(Patch.fromBinary(Uint8Array.from(/** @type {any} */ (BASE.match(/../g)), (digits) => Number.parseInt(digits, 16))));
  return model;
}

/** @param {Vector} vector @param {number} sid @param {number} last */
function advance(vector, sid, last) {
  if (last > (vector.get(sid) ?? 0)) vector.set(sid, last);
}
