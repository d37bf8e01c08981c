/**
 * Takes back what this window did, and only that: what others wrote in between stays. It works on the ids of characters,
 * which say what was typed here wherever it stands now.
 *
 * @module
 */

/** @typedef {{ sid: number, time: number }} Id */
/** @typedef {{ sid: number, time: number, span: number }} Span */
/**
 * A change that can be made and taken back: characters to remove, then text to put in behind a character.
 *
 * @typedef {{ remove: Span[], insert: { after: Id | undefined, text: string }[] }} Change
 */

/** Steps that are remembered; the oldest goes first. */
const STEPS_MAX = 200;
/** A patch has at most 4 MiB: what is pasted is sent in pieces of so many code units, three bytes each at the most. */
const PIECE_UNITS = 1 << 18;
/** Typing without a longer pause is one step. */
const PAUSE_MS = 600;

export class Undo {
  /** @type {{ changes: Change[], at: number }[]} */
  #done = [];
  /** @type {Change[][]} */
  #undone = [];

  /** @param {import("../sync/replica.js").Replica} replica @param {"title" | "text"} key */
  constructor(replica, key) {
    this.replica = replica;
    this.key = key;
  }

  /**
   * Edits the text at one place, to be taken back later.
   *
   * @param {{ at: number, deleted: number, inserted: string }} edit
   */
  edit({ at, deleted, inserted }) {
    const node = this.replica.str(this.key);
    const remove = deleted > 0 ? node.findInterval(at, deleted).map(plain) : [];
    const insert = inserted ? [{ after: at > 0 ? plainId(node.find(at - 1)) : undefined, text: inserted }] : [];
    const inverse = this.#make({ remove, insert });
    const now = performance.now();
    const last = this.#done.at(-1);
    if (last && now - last.at < PAUSE_MS && !inserted.includes("\n")) {
      last.changes.push(inverse);
      last.at = now;
    } else {
      this.#done.push({ changes: [inverse], at: now });
      if (this.#done.length > STEPS_MAX) this.#done.shift();
    }
    this.#undone = [];
  }

  /** Takes the last step back. @returns {number | undefined} where that was */
  undo() {
    const step = this.#done.pop();
    if (!step) return undefined;
    const redo = step.changes.toReversed().map((change) => this.#make(change));
    this.#undone.push(redo);
    return this.#place(redo);
  }

  /** Does again what was taken back last. @returns {number | undefined} where that was */
  redo() {
    const step = this.#undone.pop();
    if (!step) return undefined;
    const changes = step.toReversed().map((change) => this.#make(change));
    this.#done.push({ changes, at: 0 });
    return this.#place(changes);
  }

  /** Makes a change; returns what takes it back. @param {Change} change @returns {Change} */
  #make({ remove, insert }) {
    /** @type {Change} */
    const inverse = { remove: [], insert: [] };
    this.replica.edit((api, cut) => {
      const text = api.str([this.key]);
      const node = text.node;
      // From the end, so that the places before stay where they are.
      for (const { at, length } of alive(node, remove).toReversed()) {
        const after = at > 0 ? plainId(node.find(at - 1)) : undefined;
        inverse.insert.unshift({ after, text: node.view().slice(at, at + length) });
        text.del(at, length);
      }
      for (const { after, text: put } of insert) {
        const at = positionBehind(node, after);
        let end = at;
        for (const piece of pieces(put)) {
          if (end > at) cut();
          text.ins(end, piece);
          end += piece.length;
        }
        inverse.remove.push(...node.findInterval(at, put.length).map(plain));
      }
    });
    return inverse;
  }

  /** Where the caret belongs after changes whose inverses these are. @param {Change[]} inverses */
  #place(inverses) {
    const node = this.replica.str(this.key);
    const last = inverses.at(-1);
    const removed = last && alive(node, last.remove).at(-1);
    if (removed) return removed.at + removed.length;
    return last?.insert[0] ? positionBehind(node, last.insert[0].after) : undefined;
  }
}

/** A text in pieces that fit into a patch each, and never half a character. @param {string} text */
function* pieces(text) {
  for (let from = 0; from < text.length; ) {
    const end = from + PIECE_UNITS;
    const high = end < text.length && (text.charCodeAt(end - 1) & 0xfc00) === 0xd800;
    const piece = text.slice(from, high ? end - 1 : end);
    yield piece;
    from += piece.length;
  }
}

/** The parts of spans that are still in the text, in its order. @param {any} node @param {Span[]} spans */
function alive(node, spans) {
  /** @type {{ at: number, length: number }[]} */
  const found = [];
  let at = 0;
  for (let chunk = node.first(); chunk; chunk = node.next(chunk)) {
    if (chunk.del) continue;
    for (const { sid, time, span } of spans) {
      if (sid !== chunk.id.sid) continue;
      const from = Math.max(time, chunk.id.time);
      const to = Math.min(time + span, chunk.id.time + chunk.span);
      if (from < to) found.push({ at: at + from - chunk.id.time, length: to - from });
    }
    at += chunk.span;
  }
  return found.sort((a, b) => a.at - b.at);
}

/** Where a character ends; where it was if it is gone. @param {any} node @param {Id | undefined} id */
export function positionBehind(node, id) {
  if (!id) return 0;
  const chunk = node.findById(id);
  if (!chunk) return node.length();
  return node.pos(chunk) + (chunk.del ? 0 : id.time - chunk.id.time + 1);
}

/** The character before a place. @param {any} node @param {number} at @returns {Id | undefined} */
export const idBefore = (node, at) => (at > 0 ? plainId(node.find(Math.min(at, node.length()) - 1)) : undefined);

/** @param {Span} span */
const plain = ({ sid, time, span }) => ({ sid, time, span });
/** @param {Id | undefined} id */
const plainId = (id) => id && { sid: id.sid, time: id.time };
