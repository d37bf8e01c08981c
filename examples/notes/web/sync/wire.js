/**
 * The messages between this window and its node, as bytes: `docs/formats/sync-wire.md` and `docs/formats/presence.md`.
 *
 * @module
 */

const TAG_PATCH = 1;
const TAG_SYNC = 2;
const TAG_PRESENCE = 3;

const STATE = 2;
const STATE_REPLY = 3;
const PATCHES = 5;
const OFFER = 6;
const PART = 8;
const DIGEST = 1;
const WELCOME = 19;
const WELCOME_TAKES_NOTHING = 20;

const HERE = 1;

/** @typedef {Map<number, number>} Vector the last time of each session */
/** @typedef {{ sid: number, after: number, upto: number }} Want what a session made after one time and up to another */

class Writer {
  /** @type {number[]} */
  #bytes = [];

  /** @param {number} value */
  u8(value) {
    this.#bytes.push(value);
    return this;
  }

  /** A number of 1 to 8 bytes, seven bits each, the low ones first. @param {number} value */
  vu57(value) {
    for (let i = 0; i < 7 && value > 127; i++) {
      this.#bytes.push((value % 128) | 128);
      value = Math.floor(value / 128);
    }
    return this.u8(value);
  }

  /** @param {Uint8Array} bytes */
  bytes(bytes) {
    for (const byte of bytes) this.#bytes.push(byte);
    return this;
  }

  /** @param {Vector} vector */
  vector(vector) {
    this.vu57(vector.size);
    for (const [sid, last] of vector) this.vu57(sid).vu57(last);
    return this;
  }

  finish() {
    return Uint8Array.from(this.#bytes);
  }
}

class Reader {
  #at = 0;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
  }

  u8() {
    if (this.#at >= this.bytes.length) throw new Error(`message of ${this.bytes.length} bytes ends too early`);
    return this.bytes[this.#at++];
  }

  vu57() {
    let value = 0;
    let unit = 1;
    for (let i = 0; i < 7; i++) {
      const byte = this.u8();
      value += (byte & 127) * unit;
      if (byte < 128) return value;
      unit *= 128;
    }
    return value + this.u8() * unit;
  }

  /** @param {number} length */
  take(length) {
    const end = this.#at + length;
    if (!(end <= this.bytes.length)) throw new Error(`message of ${this.bytes.length} bytes ends too early`);
    const part = this.bytes.subarray(this.#at, end);
    this.#at = end;
    return part;
  }

  rest() {
    return this.take(this.bytes.length - this.#at);
  }

  blob() {
    return this.take(this.vu57());
  }

  /** Eight bytes, as hexadecimal digits: only ever compared. */
  hash() {
    return [...this.take(8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  text(/** @type {number} */ length) {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.take(length));
  }

  /** @returns {Vector} */
  vector() {
    const count = this.vu57();
    const vector = new Map();
    for (let i = 0; i < count; i++) vector.set(this.vu57(), this.vu57());
    return vector;
  }
}

/** "This is what I have of yours." @param {string} name @param {Vector} vector */
export function encodeState(name, vector) {
  const bytes = new TextEncoder().encode(name);
  return new Writer().u8(TAG_SYNC).vu57(bytes.length).bytes(bytes).u8(STATE_REPLY).vector(vector).finish();
}

/**
 * A patch of this window.
 *
 * @param {number} gap from the last time of the session's previous patch to the first of this one
 * @param {Uint8Array} patch in json-joy's binary form
 */
export const encodePatch = (gap, patch) => new Writer().u8(TAG_PATCH).vu57(gap).bytes(patch).finish();

/** What this window shows; the node repeats it to the others. @param {string} name @param {Uint8Array} shown */
export function encodePresence(name, shown) {
  const bytes = new TextEncoder().encode(name);
  return new Writer().u8(TAG_PRESENCE).u8(HERE).bytes(new Uint8Array(16)).u8(bytes.length).bytes(bytes).bytes(shown).finish();
}

/**
 * Reads a message of the node.
 *
 * @param {Uint8Array} bytes
 * @returns {{ kind: "state", vector: Vector } | { kind: "patches", records: { gap: number, patch: Uint8Array }[] }
 *   | { kind: "offer", vector: Vector, length: number, hash: string } | { kind: "part", hash: string, offset: number, bytes: Uint8Array }
 *   | { kind: "welcome", store: string | undefined, sessions: number, lacks: Want[], takesBack: boolean }
 *   | { kind: "digest" } | { kind: "presence", peer: string, here: boolean, shown: Uint8Array }}
 */
export function decode(bytes) {
  const r = new Reader(bytes);
  const tag = r.u8();
  if (tag === TAG_PRESENCE) {
    const flags = r.u8();
    r.take(16);
    return { kind: "presence", peer: r.text(r.u8()), here: (flags & HERE) !== 0, shown: r.rest() };
  }
  if (tag !== TAG_SYNC) throw new Error(`a message can't begin with byte ${tag}`);
  r.text(r.vu57());
  const kind = r.u8();
  switch (kind) {
    case DIGEST:
      return { kind: "digest" };
    case STATE:
    case STATE_REPLY:
      return { kind: "state", vector: r.vector() };
    case WELCOME:
    case WELCOME_TAKES_NOTHING: {
      const [store, sessions, lacks] = [r.hash(), r.vu57(), /** @type {Want[]} */ ([])];
      for (let left = r.vu57(); left > 0; left--) lacks.push({ sid: r.vu57(), after: r.vu57(), upto: r.vu57() });
      return { kind: "welcome", store: /[^0]/.test(store) ? store : undefined, sessions, lacks, takesBack: kind === WELCOME };
    }
    case PATCHES: {
      r.vu57();
      const records = [];
      for (let left = r.vu57(); left > 0; left--) {
        const gap = r.vu57();
        r.blob();
        records.push({ gap, patch: r.blob() });
      }
      return { kind: "patches", records };
    }
    case OFFER:
      r.vu57();
      return { kind: "offer", vector: r.vector(), length: r.vu57(), hash: r.hash() };
    case PART: {
      r.vu57();
      const offset = r.vu57();
      return { kind: "part", hash: r.hash(), offset, bytes: r.rest() };
    }
    default:
      throw new Error(`a node does not send messages of kind ${kind}`);
  }
}
