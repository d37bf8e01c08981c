/** The list of all games, live: read once, then followed by the collection's feed. @module */

import { applyPatch } from "/client/index.js";
import { authorization } from "./session.js";

/** How many games one page of the list holds. */
const PAGE_GAMES = 200;
/** The first and the longest pause before the list is read again after a failure. */
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;

/** @typedef {{ id: string, version: number, state: any }} Game */

/** @param {string} id */
export const gamePath = (id) => `/api/games/${encodeURIComponent(id)}`;

/** @param {string} path */
export async function getJson(path) {
  const response = await fetch(path, { cache: "no-store", headers: authorization() });
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.detail ?? body.title), { problem: body });
  return body;
}

/** Fires `change` with the ids that changed. */
export class Games extends EventTarget {
  /** @type {Map<string, Game>} */
  #items = new Map();
  #pauseMs = RETRY_MIN_MS;
  loaded = false;

  /** @param {import("/client/index.js").SyncClient} client */
  constructor(client) {
    super();
    this.client = client;
    client.on("collection", ({ event }) => this.#onEvent(event));
    client.on("collectionLost", () => this.load());
    client.on("change", ({ documentId }) => this.#tell(documentId));
  }

  /** Reads the list, until that works, and follows it from there. */
  async load() {
    try {
      const { items, position } = await this.#readAll();
      this.#items = items;
      this.loaded = true;
      this.#pauseMs = RETRY_MIN_MS;
      this.#tell();
      this.client.watch(position);
    } catch {
      setTimeout(() => this.load(), this.#pauseMs);
      this.#pauseMs = Math.min(RETRY_MAX_MS, this.#pauseMs * 2);
    }
  }

  async #readAll() {
    /** @type {Map<string, Game>} */
    const items = new Map();
    /** @type {number | undefined} */
    let position;
    /** @type {string | undefined} */
    let next;
    do {
      const page = await getJson(`/api/games?limit=${PAGE_GAMES}${next === undefined ? "" : `&after=${encodeURIComponent(next)}`}`);
      for (const item of page.items) items.set(item.id, item);
      // The first page's: what happened while the others were read comes again by the feed, and is known then.
      position ??= page.position;
      next = page.next;
    } while (next !== undefined);
    return { items, position: position ?? 0 };
  }

  /** A game as this window sees it: with its own edits, also those that the server does not have yet. @param {string} id */
  view(id) {
    const followed = this.client.document(id);
    if (followed && (followed.version > 0 || followed.pending.length > 0)) return followed.view;
    return this.#items.get(id)?.state ?? null;
  }

  /** All games there are, by name. */
  get all() {
    const ids = new Set([...this.#items.keys(), ...this.client.documentIds]);
    const games = [...ids].map((id) => {
      const { unsent = 0, held = [] } = this.client.document(id) ?? {};
      const state = this.view(id);
      return { id, state, name: nameOf(state ?? held.at(-1)?.after), unsent, held: held.length };
    });
    const byName = new Intl.Collator(undefined, { numeric: true }).compare;
    return games
      // A game that could not be made is there as long as it is kept.
      .filter(({ state, held }) => state !== null || held > 0)
      .sort((a, b) => byName(a.name, b.name) || byName(a.id, b.id));
  }

  /** @param {any} event */
  async #onEvent({ documentId, sequenceNum, operation, diff }) {
    const held = this.#items.get(documentId);
    if (held && sequenceNum <= held.version) return;
    if (operation === "delete") this.#items.delete(documentId);
    else if (operation === "create" || held?.version === sequenceNum - 1) {
      const state = applyPatch(held?.state ?? null, diff.jsonPatch);
      this.#items.set(documentId, { id: documentId, version: sequenceNum, state });
    } else await this.#readOne(documentId);
    this.#tell(documentId);
  }

  /** @param {string} id */
  async #readOne(id) {
    try {
      const item = await getJson(gamePath(id));
      if ((this.#items.get(id)?.version ?? 0) < item.version) this.#items.set(id, item);
    } catch {
      // It is gone again; its delete is on the way.
    }
  }

  /** @param {string[]} ids */
  #tell(...ids) {
    this.dispatchEvent(new CustomEvent("change", { detail: ids }));
  }
}

/** @param {any} state */
export const nameOf = (state) => (typeof state?.name === "string" && state.name.trim() !== "" ? state.name : "Untitled");

/**
 * Writes a game. A store that fails is told by the client's `error` event, not here.
 *
 * @param {import("/client/index.js").SyncClient} client
 * @param {string} id
 * @param {(state: any) => any} edit
 */
export const write = (client, id, edit) => client.write(id, edit).catch(() => {});
