/**
 * The client of an eventsync server, for browsers and Node: connects, follows documents, keeps what was written until
 * the server has it.
 *
 * @module
 */

import { ConflictResolver } from "./conflict-resolver.js";
import { applyPatch } from "./json-patch.js";
import { MemoryStore } from "./stores/memory.js";
import { isKind, problemOf } from "./machine/problems.js";
import { SyncMachine } from "./sync-machine.js";
import { openLongPoll, openServerSentEvents } from "./transports/http.js";
import { openWebSocket } from "./transports/websocket.js";

/** @typedef {import("./json.js").Json} Json */
/** @typedef {import("./state-manager.js").Event} Event */
/** @typedef {import("./state-manager.js").StateManager} StateManager */
/** @typedef {import("./sync-machine.js").TransportName} TransportName */
/** @typedef {import("./sync-machine.js").ClientEvent} ClientEvent */
/** @typedef {import("./sync-machine.js").Input} Input */
/** @typedef {import("./stores/memory.js").Store} Store */

/**
 * @typedef {object} Options
 * @property {string | URL} url the server's address
 * @property {string} clientId one that no other running client uses; {@link claimIdentity} finds one in a browser
 * @property {Store} [store] where documents and unsent writes are kept; in memory if left out
 * @property {TransportName[]} [transports] what to connect by, the first one first
 * @property {ConflictResolver} [resolver]
 * @property {string} [token] a bearer token; {@link SyncClient#setToken} takes the next one
 * @property {(event: Event) => void} [onEvent] hears every event of an opened document, in order, once
 * @property {typeof WebSocket} [WebSocket]
 * @property {typeof fetch} [fetch]
 * @property {() => number} [now] milliseconds since 1970 UTC
 * @property {() => number} [random] numbers in [0, 1)
 */

/** Without unsent writes, a changed document is kept this late: what is lost with it, the server has. */
const SAVE_DELAY_MS = 300;
/** So many documents without unsent writes are kept for the next start; beyond them, the first ones go. */
const RECORDS_MAX = 200;

const OPENERS = { websocket: openWebSocket, sse: openServerSentEvents, poll: openLongPoll };

export class SyncClient {
  /** @type {SyncMachine} */
  #machine;
  /** @type {import("./transports/websocket.js").Link | undefined} */
  #link = undefined;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();
  /** @type {Map<string, Promise<void>>} By document: when everything up to now is kept. */
  #saves = new Map();
  /** @type {Set<string>} The documents that are kept with unsent or held writes. */
  #keptWaiting = new Set();
  #isStoreFailing = false;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} By document: a save that waits for more. */
  #lateSaves = new Map();

  /** @param {Options} options */
  constructor(options) {
    const { clientId, token, transports = ["websocket", "sse", "poll"] } = options;
    const resolver = options.resolver ?? ConflictResolver.threeWay();
    this.options = options;
    this.base = new URL(options.url).href;
    this.store = options.store ?? new MemoryStore();
    this.now = options.now ?? Date.now;
    this.random = options.random ?? Math.random;
    this.#machine = new SyncMachine({ clientId, token, transports, resolver });
    if (options.onEvent) this.on("event", ({ event }) => options.onEvent?.(event));
  }

  get clientId() {
    return this.#machine.clientId;
  }

  get status() {
    return this.#machine.status;
  }

  /** The transport in use, or the one that is tried next. */
  get transport() {
    return this.#machine.transport;
  }

  /** How many writes the server has not answered. */
  get unsent() {
    return this.#machine.unsent;
  }

  /**
   * The writes that can't go: refused by the server, or too large for it or for something on the way. Each was told by a
   * `refused` event once, and is kept, over restarts too, until it is sent again or dropped.
   */
  get held() {
    return this.#machine.held;
  }

  /** The documents that are followed, and those with unsent writes. */
  get documentIds() {
    return this.#machine.documentIds;
  }

  /** @param {ConflictResolver} resolver decides about conflicts from now on */
  setResolver(resolver) {
    this.#machine.resolver = resolver;
    for (const documentId of this.#machine.documentIds) {
      const manager = this.#machine.manager(documentId);
      if (manager) manager.resolver = resolver;
    }
  }

  /**
   * Takes up what an earlier run left, with its unsent writes, and returns the documents' ids. Call it once, before
   * anything else; without a store it does nothing.
   */
  async restore() {
    const records = await this.store.load(this.clientId);
    const isSettled = (/** @type {import("./state-manager.js").DocumentRecord} */ { pending, held = [] }) => pending.length + held.length === 0;
    const settled = records.filter(isSettled);
    const surplus = new Set(settled.slice(0, Math.max(0, settled.length - RECORDS_MAX)));
    for (const record of surplus) await this.store.delete(this.clientId, record.documentId);
    for (const record of records) {
      if (!isSettled(record)) this.#input({ type: "open", documentId: record.documentId, record });
    }
    this.#kept = new Map(records.filter((record) => !surplus.has(record)).map((record) => [record.documentId, record]));
    return [...this.#kept.keys()];
  }

  /** @type {Map<string, import("./state-manager.js").DocumentRecord>} What an earlier run left, to start from. */
  #kept = new Map();

  /** Connects, and connects again whenever the connection breaks, until {@link disconnect}. */
  connect() {
    this.#input({ type: "connect" });
  }

  /** Disconnects and stays so. Writes are kept. */
  disconnect() {
    this.#input({ type: "disconnect" });
  }

  /** @param {TransportName[]} transports what to connect by from now on, the first one first */
  setTransports(transports) {
    this.#input({ type: "transports", transports });
  }

  /**
   * Goes on under another token of the same name, without a new connection where that is possible. Without one in time
   * the server ends the connection; what was written meanwhile is kept and sent under the next token.
   *
   * @param {string} token
   */
  setToken(token) {
    this.#input({ type: "token", token });
  }

  /** @param {boolean} online what the device says; after a "yes" the next try comes at once */
  setNetwork(online) {
    this.#input({ type: "network", online });
  }

  /**
   * Follows a document and returns its state, which changes as events come in. It need not exist yet.
   *
   * @param {string} documentId
   * @returns {StateManager}
   */
  open(documentId) {
    this.#input({ type: "open", documentId, record: this.#kept.get(documentId) });
    return /** @type {StateManager} */ (this.#machine.manager(documentId));
  }

  /** Follows a document no longer; unsent writes are sent all the same. @param {string} documentId */
  close(documentId) {
    const manager = this.#machine.manager(documentId);
    if (manager) this.#kept.set(documentId, manager.toRecord());
    this.#input({ type: "close", documentId });
  }

  /** The state of an opened document. @param {string} documentId */
  document(documentId) {
    return this.#machine.manager(documentId);
  }

  /**
   * Writes a document: shown at once, kept when the promise resolves, sent when there is a connection. `edit` gets the
   * state as it is seen, and returns what it should be; it must not change what it gets. `null` deletes.
   *
   * @param {string} documentId
   * @param {Json | ((state: Json) => Json)} edit
   */
  async write(documentId, edit) {
    const record = this.#kept.get(documentId);
    const manager = this.document(documentId);
    const state = typeof edit === "function" ? edit(manager ? manager.view : (record?.state ?? null)) : edit;
    this.#input({ type: "write", documentId, state, record });
    await this.#saves.get(documentId);
  }

  /**
   * Writes a held write anew, onto what the document is now; its values stand where they clash. If it still can't go, it is
   * held again.
   *
   * @param {string} documentId
   * @param {number} id
   */
  async sendHeld(documentId, id) {
    this.#input({ type: "sendHeld", documentId, id });
    await this.#saves.get(documentId);
  }

  /** Lets go of a held write. @param {string} documentId @param {number} id */
  async dropHeld(documentId, id) {
    this.#input({ type: "dropHeld", documentId, id });
    await this.#saves.get(documentId);
  }

  /**
   * Shows something of this client to others on an opened document: a cursor, a name. It is kept nowhere, shown again
   * after a reconnect, and gone with the connection. Only a WebSocket carries it.
   *
   * @param {string} documentId
   * @param {Json} data at most 4 KiB of JSON; `null` for nothing
   */
  show(documentId, data) {
    this.#input({ type: "show", documentId, data });
  }

  /** What others show on an opened document, by client; `presence` events tell of changes. @param {string} documentId */
  others(documentId) {
    return this.#machine.others(documentId);
  }

  /** Follows all documents, from a position on; `collection` events tell what happens. @param {number} position */
  watch(position) {
    this.#input({ type: "watch", position });
  }

  /**
   * Brings documents up to date by one request each, whatever the connection does: sends the state vector and the
   * cursor, takes what was missing. Returns how many events and snapshots that were.
   *
   * @param {string[]} [documentIds] all opened ones if left out
   */
  async syncState(documentIds = this.#machine.documentIds) {
    let taken = 0;
    for (const documentId of documentIds) {
      for (let more = true; more; ) {
        const manager = this.open(documentId);
        const before = manager.version;
        const page = await this.#post(`api/sync/${encodeURIComponent(documentId)}`, {
          clientId: this.clientId,
          vectorClock: manager.stateVector,
          ...(manager.version > 0 && { cursor: manager.version }),
        });
        const { snapshot, events, next } = page;
        // What came by the connection meanwhile is known then, and passed over.
        if (snapshot && snapshot.version !== manager.version) {
          this.#input({ type: "synced", message: { type: "snapshot", ...snapshot, documentId } });
        }
        this.#input({ type: "synced", message: { type: "events", documentId, events } });
        taken += manager.version - before;
        more = next !== undefined && manager.version > before;
      }
    }
    return taken;
  }

  /**
   * Hears what happens; returns the way to stop.
   *
   * @template {ClientEvent["type"]} T
   * @param {T} type
   * @param {(event: Extract<ClientEvent, { type: T }>) => void} listener
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Waits until everything that was written is kept in the store. */
  async saved() {
    for (const documentId of [...this.#lateSaves.keys()]) this.#save(documentId);
    await Promise.all(this.#saves.values());
  }

  /**
   * @param {string} path
   * @param {object} body
   */
  async #post(path, body) {
    const { fetch = globalThis.fetch } = this.options;
    const { token } = this.#machine;
    const response = await fetch(new URL(path, this.base), {
      method: "POST",
      headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
      body: JSON.stringify(body),
      redirect: "manual",
    });
    const copy = response.clone();
    const answer = await response.json().catch(() => undefined);
    // Nothing is missing of what does not exist.
    if (isKind(answer, "unknown-document")) return { events: [] };
    if (response.ok && Array.isArray(answer?.events)) return answer;
    const problem = await problemOf(copy);
    throw new Error(problem.detail ?? problem.title);
  }

  // The driver

  /** @param {Input} input */
  #input(input) {
    this.#machine.handleInput(input, { nowMs: this.now(), random: this.random() });
    // A listener may give inputs of its own; whoever is in the loop already handles their outputs.
    if (this.#polling) return;
    this.#polling = true;
    try {
      for (let output = this.#machine.pollOutput(); output; output = this.#machine.pollOutput()) this.#handle(output);
    } finally {
      this.#polling = false;
    }
  }

  #polling = false;

  /** @param {import("./sync-machine.js").Output} output */
  #handle(output) {
    switch (output.type) {
      case "open":
        return this.#openLink(output.transport);
      case "close":
        this.#link?.close();
        this.#link = undefined;
        return;
      case "send":
        return this.#send(output.message);
      case "setTimer":
        return this.#setTimer(output);
      case "clearTimer":
        clearTimeout(this.#timers.get(timerKey(output)));
        this.#timers.delete(timerKey(output));
        return;
      case "save":
        return this.#saveSoon(output.documentId);
      case "emit":
        return this.#emit(output.event);
    }
  }

  /** @param {TransportName} transport */
  #openLink(transport) {
    const environment = {
      WebSocket: this.options.WebSocket ?? globalThis.WebSocket,
      fetch: this.options.fetch ?? globalThis.fetch,
    };
    // Only the link that is in use is listened to.
    const heard = (/** @type {Input} */ input) => this.#link === link && this.#input(input);
    /** @type {import("./transports/websocket.js").Link} */
    const link = OPENERS[transport](
      this.base,
      {
        opened: () => heard({ type: "opened" }),
        message: (message) => heard({ type: "message", message }),
        closed: (code, reason) => heard({ type: "closed", code, reason }),
      },
      environment,
    );
    this.#link = link;
  }

  /** @param {any} message */
  async #send(message) {
    const link = this.#link;
    // Kept before it is sent: else a crash could give the number of a write that the server has to another one.
    if (message.type === "push") {
      this.#save(message.documentId);
      try {
        await this.#saves.get(message.documentId);
      } catch {
        // A store that is full or broken was told. With the server the write is safer than here, where nothing is kept.
      }
      if (this.#link !== link) return;
    }
    link?.send(message);
  }

  /** @param {Extract<import("./sync-machine.js").Output, { type: "setTimer" }>} output */
  #setTimer({ name, documentId, delayMs }) {
    const key = timerKey({ name, documentId });
    clearTimeout(this.#timers.get(key));
    const ring = () => {
      this.#timers.delete(key);
      this.#input({ type: "timer", name, documentId });
    };
    this.#timers.set(key, setTimeout(ring, delayMs));
  }

  /** @param {string} documentId */
  #saveSoon(documentId) {
    // Unsent and held writes are kept at once, and so is that there are none any more.
    const { pending = [], held = [] } = this.#machine.manager(documentId) ?? {};
    if (pending.length + held.length > 0 || this.#keptWaiting.delete(documentId)) return this.#save(documentId);
    if (this.#lateSaves.has(documentId)) return;
    this.#lateSaves.set(documentId, setTimeout(() => this.#save(documentId), SAVE_DELAY_MS));
  }

  /** @param {string} documentId */
  #save(documentId) {
    clearTimeout(this.#lateSaves.get(documentId));
    this.#lateSaves.delete(documentId);
    const record = this.#machine.manager(documentId)?.toRecord();
    if (!record) return;
    if (record.pending.length > 0 || record.held) this.#keptWaiting.add(documentId);
    const saved = this.store.put(this.clientId, record);
    saved.then(() => (this.#isStoreFailing = false), (error) => {
      // Once, until it works again: every key that is typed would fail anew.
      if (this.#isStoreFailing) return;
      this.#isStoreFailing = true;
      const problem = { title: "the browser did not keep a change", detail: String(error) };
      this.#emit({ type: "error", problem, documentId });
    });
    this.#saves.set(documentId, saved);
  }

  /** @param {ClientEvent} event */
  #emit(event) {
    for (const listener of this.#listeners.get(event.type) ?? []) listener(event);
  }
}

/** @param {{ name: string, documentId?: string }} timer */
const timerKey = ({ name, documentId = "" }) => `${name} ${documentId}`;

/**
 * A document's state after some more events: for history views.
 *
 * @param {Json} state
 * @param {Event[]} events
 */
export function replay(state, events) {
  return events.reduce((before, event) => applyPatch(before, event.diff.jsonPatch), state);
}
