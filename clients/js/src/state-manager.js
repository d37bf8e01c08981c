/**
 * One document on the client: what the server has confirmed, and over it what this client wrote and has no answer for.
 *
 * @module
 */

import { ConflictResolver } from "./conflict-resolver.js";
import { applyPatch, diff } from "./json-patch.js";
import { equal } from "./json.js";

/** @typedef {import("./json.js").Json} Json */
/** @typedef {import("./conflict-resolver.js").Conflict} Conflict */

/** @typedef {object} Event see docs/formats/eventsync-wire.md
 * @property {string} id
 * @property {string} documentId
 * @property {number} timestamp
 * @property {number} sequenceNum
 * @property {number} position
 * @property {"create" | "update" | "update_section" | "delete"} operation
 * @property {{ version: number, jsonPatch: import("./json-patch.js").Operation[], mergePatch: Json }} diff
 * @property {Record<string, number>} vectorClock
 * @property {string} clientId
 * @property {number} [clientSeq]
 * @property {Record<string, Json>} [metadata]
 */

/** @typedef {object} Snapshot
 * @property {number} version
 * @property {Json} state
 * @property {Record<string, number>} stateVector
 * @property {number} [createdAt]
 * @property {number} [timestamp] when its last event was made
 */

/** @type {WeakMap<object, number>} How many bytes states have that were counted before. They are never changed. */
const sizes = new WeakMap();

/**
 * How many bytes a state has as JSON, nearly: characters beyond ASCII count once.
 *
 * @param {Json} state
 * @returns {number}
 */
function bytesOf(state) {
  if (state === null || typeof state !== "object") return JSON.stringify(state).length;
  let bytes = sizes.get(state);
  if (bytes === undefined) sizes.set(state, (bytes = JSON.stringify(state).length));
  return bytes;
}

/** A write of this client: what it made of the state below it.
 *
 * @typedef {object} Write
 * @property {Json} after the state it leads to; `null` deletes
 * @property {number} madeAtMs
 * @property {boolean} [isSent] whether it may be with the server, under the number of the oldest write
 * @property {boolean} [isCreateUnderWay] whether it is a create that was sent, and may or may not have been taken
 * @property {boolean} [isFence] whether it changes nothing, and is sent so that the server decides about its number
 */

/** A write that can't go. It is kept until the user sends it again or drops it.
 *
 * @typedef {object} HeldWrite
 * @property {number} id tells it from others of the document
 * @property {Json} base what it was made on
 * @property {Json} after what it made of that; `null` deletes
 * @property {number} madeAtMs
 * @property {any} problem why it can't go
 * @property {boolean} [isOpen] whether it may have been stored all the same, by an earlier attempt; a fence finds out
 */

/** What is kept over a restart.
 *
 * @typedef {object} DocumentRecord
 * @property {string} documentId
 * @property {number} version
 * @property {number} [timestamp] when the event of that version was made; records of earlier releases don't tell
 * @property {Json} state
 * @property {Record<string, number>} stateVector
 * @property {Write[]} pending
 * @property {HeldWrite[]} [held] left out where there are none
 * @property {number} [heldLast] the id of the last write that was held, left out where none was; records of earlier releases don't tell
 */

/** @typedef {{ version?: number, state: Json, conflicts: Conflict[] }} Rebased */

/**
 * Holds a document for one client. The confirmed state moves only by the server's events and snapshots, in their
 * order. The client's own writes lie over it, oldest first, until the server's event of each comes back: so `view`
 * shows an edit at once, and shows the truth in the end.
 *
 * A write has no number of its own. The oldest one is always number `stateVector[clientId] + 1`, the next one follows.
 * So a write that is sent again carries the number that it had before, and a write that falls away leaves no gap.
 * What the confirmed state contains of this client is a pending write only if that was sent: else it is of an earlier
 * life, of which nothing was kept.
 */
export class StateManager {
  /** The most writes that wait. A later edit joins the last of them: nothing is lost but the step in between. */
  static PENDING_WRITES_MAX = 1000;
  /** The most bytes that they have together, as JSON of the states that they lead to; beyond them a later edit joins the last one as well. */
  static PENDING_BYTES_MAX = 64 << 20;
  /** The most writes that are held. Beyond them the oldest falls away; each was told when it was refused. */
  static HELD_WRITES_MAX = 10;

  /** When the confirmed state was made, by the server's clock. */
  #changedAtMs = 0;

  /**
   * @param {{ documentId: string, clientId: string, resolver?: ConflictResolver }} options
   */
  constructor({ documentId, clientId, resolver = ConflictResolver.threeWay() }) {
    this.documentId = documentId;
    this.clientId = clientId;
    this.resolver = resolver;
    /** The last event that the confirmed state contains; also the cursor to resume after. */
    this.version = 0;
    /** @type {number | undefined} When that event was made. With its number it names the event. */
    this.timestamp = undefined;
    /** @type {Json} The confirmed state; `null` while the document does not exist. */
    this.state = null;
    /** @type {Record<string, number>} For each client, how many of its writes the confirmed state contains. */
    this.stateVector = Object.create(null);
    /** @type {Write[]} */
    this.pending = [];
    /** @type {HeldWrite[]} Writes that can't go, oldest first. The view is without them. */
    this.held = [];
    /** The id of the last write that was held. */
    this.heldLast = 0;
    /** How far the server's clock is ahead of this one, by which the times of writes are made: for who asks which was later. */
    this.clockOffsetMs = 0;
    /** @type {number | undefined} The version that the oldest write got, while its event is on the way. */
    this.storedAt = undefined;
  }

  /** The document as the user should see it: the confirmed state under the own writes. */
  get view() {
    return this.pending.at(-1)?.after ?? (this.pending.length > 0 ? null : this.state);
  }

  /** How many writes the server has not answered. */
  get unsent() {
    return this.pending.length - (this.storedAt === undefined ? 0 : 1);
  }

  /** The number of the oldest pending write. */
  get nextSeq() {
    return (this.stateVector[this.clientId] ?? 0) + 1;
  }

  /**
   * Notes that the state contains a client's writes up to a number. Never goes back.
   *
   * @param {string} clientId
   * @param {number} sequenceNum
   */
  updateStateVector(clientId, sequenceNum) {
    this.stateVector[clientId] = Math.max(this.stateVector[clientId] ?? 0, sequenceNum);
  }

  /**
   * Takes the next event. Events come in order; one that is contained is `known`, one from beyond the next is a `gap`:
   * then the state is as it was, and the document must be read again from `version`.
   *
   * @param {Event} event
   * @returns {{ outcome: "applied" | "known" | "gap", conflicts: Conflict[] }}
   */
  onEvent(event) {
    if (event.sequenceNum <= this.version) return { outcome: "known", conflicts: [] };
    if (event.sequenceNum > this.version + 1) return { outcome: "gap", conflicts: [] };
    const state = applyPatch(this.state, event.diff.jsonPatch);
    this.timestamp = event.timestamp;
    const conflicts = this.#confirm(state, event.sequenceNum, event.timestamp, () => {
      for (const [client, sequence] of Object.entries(event.vectorClock)) this.updateStateVector(client, sequence);
    });
    return { outcome: "applied", conflicts };
  }

  /**
   * Takes a snapshot in place of whatever was confirmed. Pending writes stay, rebased.
   *
   * @param {Snapshot} snapshot
   * @returns {Conflict[]}
   */
  onSnapshot({ version, state, stateVector, createdAt = 0, timestamp }) {
    this.timestamp = timestamp;
    return this.#confirm(state, version, createdAt, () => {
      this.stateVector = Object.assign(Object.create(null), stateVector);
    });
  }

  /**
   * Moves the confirmed state, takes off the writes that it contains, and rebases the others.
   *
   * @param {Json} state
   * @param {number} version
   * @param {number} timeMs
   * @param {() => void} advanceVector
   */
  #confirm(state, version, timeMs, advanceVector) {
    const before = this.stateVector[this.clientId] ?? 0;
    advanceVector();
    const counted = (this.stateVector[this.clientId] ?? 0) > before;
    const contained = counted && this.pending[0]?.isSent ? 1 : 0;
    const base = contained > 0 ? this.pending[contained - 1].after : this.state;
    const [done] = this.pending.splice(0, contained);
    // A fence makes no event: that of its number is of the write that was held, and went through after all.
    if (done?.isFence) this.held = this.held.filter(({ isOpen }) => !isOpen);
    const undecided = this.#undecided;
    this.state = state;
    this.version = version;
    this.#changedAtMs = timeMs;
    if (contained > 0 || (this.storedAt !== undefined && this.storedAt <= version)) this.storedAt = undefined;
    return undecided ? [] : this.#rebase(base, timeMs, this.resolver);
  }

  /**
   * Whether a create is on its way of which nobody knows if it was taken. Others may create and delete the document
   * before it arrives, and then it is; so what is behind it stays as it was made until that is known.
   */
  get #undecided() {
    return this.pending[0]?.isCreateUnderWay === true;
  }

  /**
   * A create that was under way was not taken: it and what is behind it are brought onto what is there.
   *
   * @returns {Conflict[]}
   */
  onNotTaken() {
    if (!this.#undecided) return [];
    const [create] = this.pending;
    this.pending[0] = { after: create.after, madeAtMs: create.madeAtMs };
    return this.#rebase(null, this.#changedAtMs, this.resolver);
  }

  /**
   * Puts the pending writes, made on `base`, onto the confirmed state.
   *
   * @param {Json} base
   * @param {number} remoteTimeMs
   * @param {ConflictResolver} resolver
   * @returns {Conflict[]}
   */
  #rebase(base, remoteTimeMs, resolver) {
    if (this.pending.length === 0 || equal(base, this.state)) return [];
    /** @type {Conflict[]} */
    const conflicts = [];
    /** @type {Write[]} */
    const rebased = [];
    let remote = this.state;
    for (const write of this.pending) {
      if (write.isFence) {
        rebased.push({ ...write, after: remote });
        continue;
      }
      const { after: local, madeAtMs } = write;
      const { documentId } = this;
      const localTimeMs = madeAtMs + this.clockOffsetMs;
      const resolution = resolver.resolve({ documentId, base, local, remote, localTimeMs, remoteTimeMs });
      conflicts.push(...resolution.conflicts);
      // A write that has nothing left to say falls away.
      if (!equal(resolution.value, remote)) rebased.push({ after: resolution.value, madeAtMs });
      base = local;
      remote = resolution.value;
    }
    this.pending = rebased;
    return conflicts;
  }

  /**
   * Writes: the view becomes `after` at once; the server is told by {@link nextPush}. `null` deletes.
   *
   * @param {Json} after
   * @param {number} nowMs
   * @returns {boolean} whether that changes anything
   */
  write(after, nowMs) {
    if (equal(after, this.view)) return false;
    const isFull = this.pending.length >= StateManager.PENDING_WRITES_MAX || this.#isHeavy(after);
    // The oldest one may be with the server, under its number, or be a fence.
    if (isFull && this.pending.length > 1) this.pending.pop();
    this.pending.push({ after, madeAtMs: nowMs });
    return true;
  }

  /**
   * Whether what waits has more bytes than may be, with one more.
   *
   * @param {Json} after
   * @returns {boolean}
   */
  #isHeavy(after) {
    const bytes = this.pending.reduce((sum, write) => sum + bytesOf(write.after), bytesOf(after));
    return bytes > StateManager.PENDING_BYTES_MAX;
  }

  /**
   * The push message of the oldest write, or `undefined` when there is none or its event is on the way. It always
   * names the version that it was made on: others' changes in between make the server refuse it, never overwrite them.
   */
  nextPush() {
    if (this.pending.length === 0 || this.storedAt !== undefined) return undefined;
    const { after } = this.pending[0];
    this.pending[0] = { ...this.pending[0], isSent: true };
    const { documentId, nextSeq: clientSeq } = this;
    // Zero is "while it does not exist", whatever was there before.
    const baseVersion = this.state === null ? 0 : this.version;
    const push = { type: "push", documentId, clientSeq, baseVersion };
    if (after === null) return { ...push, op: "delete" };
    if (this.state === null) {
      this.pending[0] = { ...this.pending[0], isCreateUnderWay: true };
      return { ...push, op: "create", state: after };
    }
    return { ...push, op: "patch", patch: diff(this.state, after) };
  }

  /**
   * The server has the write durable. Its event may have been here before.
   *
   * @param {{ clientSeq: number, version: number, changed: boolean, repeated?: boolean }} pushed
   */
  onPushed({ clientSeq, version, changed, repeated = false }) {
    if (clientSeq !== this.nextSeq || this.pending.length === 0) return;
    if ((changed || repeated) && version > this.version) {
      this.storedAt = version;
      return;
    }
    if (repeated) {
      if (this.pending[0].isFence) {
        // What it was to find out, an earlier one did whose answer was lost.
        this.pending.splice(0, 1);
        this.#closeHeld();
      }
      // Its event would be here. So the number was used up by an earlier life of this client, for a write that changed
      // nothing; none is sent from here that would.
      this.renumber(clientSeq + 1);
      return;
    }
    // The write changed nothing, so no event will come to take it off.
    const [{ after, isFence }] = this.pending.splice(0, 1);
    if (isFence) this.#closeHeld();
    this.updateStateVector(this.clientId, clientSeq);
    this.#rebase(after, 0, ConflictResolver.clientWins());
  }

  /** Whether the oldest write may be with the server, by an attempt that nobody has answered. */
  get isUndecided() {
    return this.pending[0]?.isSent === true;
  }

  /**
   * The oldest write can't go: it is taken out of the view and held, the later ones stay as far as they stand without it.
   *
   * Where only the way is too narrow for it, nobody has decided about its number: an attempt by another way may have been
   * stored, or be stored still. A later write under that number could then be taken for the repeat of this one, and be
   * lost. So a fence takes the number first: a write that changes nothing, small enough for any way.
   *
   * @param {any} problem why
   * @param {{ isDecided: boolean }} options whether the server itself said that it does not take it, or it never left
   * @returns {HeldWrite | undefined}
   */
  holdOldest(problem, { isDecided }) {
    const [oldest] = this.pending;
    if (oldest === undefined || oldest.isFence) return undefined;
    const base = this.#undecided ? null : this.state;
    const { after, madeAtMs } = oldest;
    // Not of those that are left: who was told of one that is gone would drop another.
    const id = ++this.heldLast;
    const held = { id, base, after, madeAtMs, problem, ...(!isDecided && { isOpen: true }) };
    this.held = [...this.held, held].slice(-StateManager.HELD_WRITES_MAX);
    this.pending.splice(0, 1);
    this.storedAt = undefined;
    // What clashes now are the client's own later values; they are what the user wants.
    this.#rebase(after, 0, ConflictResolver.clientWins());
    if (!isDecided) this.pending.unshift({ after: this.state, madeAtMs, isSent: true, isFence: true });
    return held;
  }

  /** The number of the held write belongs to none of its attempts: it was not stored and never will be. */
  #closeHeld() {
    this.held = this.held.map(({ isOpen: _, ...held }) => held);
  }

  /** Lets go of a held write. @param {number} id */
  dropHeld(id) {
    const count = this.held.length;
    this.held = this.held.filter((held) => held.id !== id);
    return this.held.length < count;
  }

  /**
   * What the view becomes with a held write on it, whose values stand where they clash.
   *
   * @param {number} id
   * @returns {Json | undefined} `undefined` if there is no such one
   */
  withHeld(id) {
    const held = this.held.find((each) => each.id === id);
    if (!held) return undefined;
    const { base, after: local, madeAtMs: localTimeMs } = held;
    const { documentId, view: remote } = this;
    return ConflictResolver.clientWins().resolve({ documentId, base, local, remote, localTimeMs, remoteTimeMs: 0 }).value;
  }

  /**
   * The server counts this client's writes from another number (it lost or never had some): follow it. So it has not
   * taken the oldest write.
   *
   * @param {number} nextSeq
   */
  renumber(nextSeq) {
    this.stateVector[this.clientId] = nextSeq - 1;
    if (this.pending.length > 0) this.pending[0] = { ...this.pending[0], isSent: false };
  }

  /** @returns {DocumentRecord} */
  toRecord() {
    const { documentId, version, timestamp, state, stateVector, pending, held, heldLast } = this;
    return {
      documentId,
      version,
      ...(timestamp !== undefined && { timestamp }),
      state,
      stateVector: { ...stateVector },
      pending: [...pending],
      ...(held.length > 0 && { held: [...held] }),
      ...(heldLast > 0 && { heldLast }),
    };
  }

  /** @param {DocumentRecord} record */
  restore({ version, timestamp, state, stateVector, pending, held = [], heldLast = 0 }) {
    this.version = version;
    this.timestamp = timestamp;
    this.state = state;
    this.stateVector = Object.assign(Object.create(null), stateVector);
    this.pending = [...pending];
    this.held = [...held];
    this.heldLast = Math.max(heldLast, held.at(-1)?.id ?? 0);
    this.storedAt = undefined;
  }
}
