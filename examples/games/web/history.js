/** The past of one game: its events, and the game as it was after any of them. @module */

import { applyPatch } from "/client/index.js";
import { gamePath, getJson } from "./games.js";

/** How many events are read at once, newest first, and so how far "earlier" goes back at a time. */
const PAGE_EVENTS = 100;
/** So many states beyond the events at hand are remembered. */
const STATES_MAX = 200;

export class History extends EventTarget {
  /** @type {any[]} Gapless, in order. */
  events = [];
  /** @type {Map<number, any>} States that were asked for or passed by. */
  #states = new Map([[0, null]]);
  /** No event before this one is to be had. */
  oldest = 1;

  /** @param {string} documentId */
  constructor(documentId) {
    super();
    this.documentId = documentId;
  }

  /** The last event that is known. */
  get version() {
    return this.events.at(-1)?.sequenceNum ?? 0;
  }

  /** The first event that is at hand. */
  get first() {
    return this.events[0]?.sequenceNum ?? 0;
  }

  /** Whether there are earlier events than those at hand. */
  get more() {
    return this.first > this.oldest;
  }

  /** Reads the latest events up to a version. @param {number} version */
  async readLatest(version) {
    await this.#read(Math.max(0, version - PAGE_EVENTS), version);
  }

  /** Reads the page of events before those at hand. */
  async readEarlier() {
    if (this.more) await this.#read(Math.max(this.oldest - 1, this.first - 1 - PAGE_EVENTS), this.first - 1);
  }

  /** @param {number} after @param {number} last */
  async #read(after, last) {
    const found = [];
    try {
      for (let cursor = after; cursor < last; ) {
        const page = await getJson(`/api/events/${encodeURIComponent(this.documentId)}?after=${cursor}&limit=${last - cursor}`);
        if (page.events.length === 0) break;
        found.push(...page.events);
        cursor = page.cursor;
      }
    } catch (error) {
      const { problem } = /** @type {any} */ (error);
      if (problem?.status !== 410) throw error;
      // Older ones are compacted away; what is left starts at `oldest`.
      this.oldest = problem.oldest ?? last;
      if (this.oldest <= last && this.oldest > after + 1) return this.#read(this.oldest - 1, last);
    }
    // What they start from, so that each can be shown with what was there before. Without it they are shown alone.
    const base = (found[0]?.sequenceNum ?? 1) - 1;
    await this.stateAt(base).catch(() => {});
    this.#join(found);
    this.#tell();
  }

  /** Puts events to those at hand. Where they don't meet, the later ones stay. @param {any[]} found */
  #join(found) {
    const all = new Map([...this.events, ...found].map((event) => [event.sequenceNum, event]));
    const sorted = [...all.values()].sort((a, b) => a.sequenceNum - b.sequenceNum);
    const gap = sorted.findLastIndex(({ sequenceNum }, i) => i > 0 && sorted[i - 1].sequenceNum !== sequenceNum - 1);
    this.events = sorted.slice(Math.max(0, gap));
  }

  /** Takes a live event; `false` when those before it are missing. @param {any} event */
  add(event) {
    if (event.sequenceNum <= this.version) return true;
    if (event.sequenceNum !== this.version + 1) return false;
    this.events.push(event);
    this.#tell();
    return true;
  }

  /** Knows a state without asking. @param {number} version @param {any} state */
  remember(version, state) {
    this.#states.set(version, state);
    // The oldest entry goes; 0 is known without being asked for.
    if (this.#states.size > STATES_MAX) this.#states.delete([...this.#states.keys()].find((known) => known !== 0) ?? 0);
  }

  /** The state after an event, if it follows from what is at hand. @param {number} version @returns {any | undefined} */
  stateAtHand(version) {
    let from = version;
    while (!this.#states.has(from)) {
      if (from < this.first || from > this.version) return undefined;
      from -= 1;
    }
    let state = this.#states.get(from);
    for (let at = from + 1; at <= version; at++) {
      state = applyPatch(state, this.events[at - this.first].diff.jsonPatch);
    }
    if (from !== version) this.remember(version, state);
    return state;
  }

  /** The state after an event: from what is at hand, or from the server. @param {number} version */
  async stateAt(version) {
    const atHand = this.stateAtHand(version);
    if (atHand !== undefined) return atHand;
    const { state } = await getJson(`${gamePath(this.documentId)}?version=${version}`);
    this.remember(version, state);
    return state;
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}
