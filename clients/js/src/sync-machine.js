/**
 * The protocol of a client as a machine without IO: inputs go in, outputs come out; the time and the draw of the
 * random number are parameters. {@link SyncClient} drives it; the tests drive it without a network.
 *
 * @module
 */

import { equal } from "./json.js";
import { PatchError } from "./json-patch.js";
import { StateManager } from "./state-manager.js";

/** @typedef {import("./json.js").Json} Json */
/** @typedef {import("./state-manager.js").Event} Event */
/** @typedef {import("./state-manager.js").DocumentRecord} DocumentRecord */
/** @typedef {import("./conflict-resolver.js").ConflictResolver} ConflictResolver */

/** @typedef {"websocket" | "sse" | "poll"} TransportName */

/** - `off`: not to be connected. `offline`: waiting to try again. `connecting`. `catching-up`: connected, history is
 * on the way. `live`: everything that is open has caught up.
 *
 * @typedef {"off" | "offline" | "connecting" | "catching-up" | "live"} Status
 */

/** @typedef {"reconnect" | "welcome" | "heartbeat" | "answer" | "retry"} TimerName */

/** @typedef {(
 *   | { type: "connect" }
 *   | { type: "disconnect" }
 *   | { type: "transports", transports: TransportName[] }
 *   | { type: "network", online: boolean }
 *   | { type: "opened" }
 *   | { type: "message", message: any }
 *   | { type: "synced", message: any }
 *   | { type: "closed", code?: number, reason?: string }
 *   | { type: "token", token: string | undefined }
 *   | { type: "timer", name: TimerName }
 *   | { type: "open", documentId: string, record?: DocumentRecord }
 *   | { type: "close", documentId: string }
 *   | { type: "show", documentId: string, data: Json }
 *   | { type: "watch", position: number }
 *   | { type: "write", documentId: string, state: Json, record?: DocumentRecord }
 * )} Input */

/** @typedef {(
 *   | { type: "open", transport: TransportName }
 *   | { type: "close" }
 *   | { type: "send", message: any }
 *   | { type: "setTimer", name: TimerName, delayMs: number }
 *   | { type: "clearTimer", name: TimerName }
 *   | { type: "save", documentId: string }
 *   | { type: "emit", event: ClientEvent }
 * )} Output */

/** What the application hears.
 *
 * @typedef {(
 *   | { type: "status", status: Status, transport: TransportName, unsent: number }
 *   | { type: "change", documentId: string }
 *   | { type: "event", event: Event }
 *   | { type: "snapshot", documentId: string, version: number }
 *   | { type: "live", documentId: string, version: number }
 *   | { type: "conflict", documentId: string, conflicts: import("./conflict-resolver.js").Conflict[] }
 *   | { type: "refused", documentId: string, lost: Json | undefined, problem: any }
 *   | { type: "collection", event: Event }
 *   | { type: "collectionLive", position: number }
 *   | { type: "collectionLost", position: number }
 *   | { type: "presence", documentId: string, clientId: string, data: Json }
 *   | { type: "error", problem: any, documentId?: string }
 * )} ClientEvent
 */

/** The first pause before connecting again; it doubles with each failure. */
export const RECONNECT_PAUSE_MIN_MS = 250;
/** The longest pause before connecting again. */
export const RECONNECT_PAUSE_MAX_MS = 15_000;
/** So many attempts in a row that were never live, and the next transport is tried. */
export const TRANSPORT_TRIES_MAX = 2;
/** How long a transport may take from the first step to the welcome; then it counts as failed. */
export const WELCOME_WAIT_MS = 10_000;
/** How long a push may stay without an answer; then the connection counts as dead. */
export const ANSWER_WAIT_MS = 10_000;
/** How often a silent WebSocket is asked whether it is alive; after two silent rounds it counts as dead. */
export const HEARTBEAT_MS = 10_000;

/** Problems that decide nothing: the write may have been taken, or be taken later. The same one is sent again. */
const PASSING = new Set(["unavailable", "too-many", "too-slow", "internal", "idempotency-in-progress"]);
/** Problems that say "others were faster": the write waits for their events, then goes out rebased. */
const OUTDATED = new Set(["version-mismatch", "already-exists", "unknown-document"]);

/** A document that is followed.
 *
 * @typedef {object} Followed
 * @property {StateManager} manager
 * @property {boolean} live whether it has caught up on this connection
 * @property {boolean} inFlight whether a push of it waits for its answer
 * @property {number} pushedOn the version that the last push was made on
 * @property {number} waitFor push nothing before the confirmed state has this version
 * @property {Json} shown what this client shows of itself on it; `null` for nothing
 * @property {Map<string, Json>} others what others show
 */

export class SyncMachine {
  /** @type {Output[]} */
  #outputs = [];
  /** @type {Map<string, Followed>} */
  #documents = new Map();
  #wanted = false;
  #networkOnline = true;
  /** @type {"closed" | "opening" | "greeting" | "open"} */
  #link = "closed";
  /** @type {TransportName} The transport of the link, while there is one. */
  #transport = "websocket";
  /** Failed attempts since it was live. */
  #failures = 0;
  /** How often the heartbeat rang since the last message. */
  #silentBeats = 0;
  /** @type {number | undefined} The position that the collection is followed from. */
  #position = undefined;
  /** @type {number | undefined} When the event at that position was made, as far as known. */
  #positionTime = undefined;
  #collectionLive = false;
  /** @type {string | undefined} The status that was emitted last, to emit only changes. */
  #emitted = undefined;

  /**
   * @param {{ clientId: string, transports: TransportName[], resolver: ConflictResolver, token?: string }} options
   */
  constructor({ clientId, transports, resolver, token }) {
    this.clientId = clientId;
    this.transports = transports;
    this.resolver = resolver;
    this.token = token;
  }

  /** @param {string} documentId */
  manager(documentId) {
    return this.#documents.get(documentId)?.manager;
  }

  get documentIds() {
    return [...this.#documents.keys()];
  }

  /** How many writes wait for their answer, over all documents. */
  get unsent() {
    let unsent = 0;
    for (const { manager } of this.#documents.values()) unsent += manager.unsent;
    return unsent;
  }

  /** @returns {Status} */
  get status() {
    if (!this.#wanted) return "off";
    if (this.#link === "closed") return "offline";
    if (this.#link !== "open") return this.#failures > 0 ? "offline" : "connecting";
    const allLive = [...this.#documents.values()].every(({ live }) => live);
    return allLive && (this.#position === undefined || this.#collectionLive) ? "live" : "catching-up";
  }

  /** The transport in use, or the one that is tried next. @returns {TransportName} */
  get transport() {
    if (this.#link !== "closed") return this.#transport;
    return this.transports[Math.floor(this.#failures / TRANSPORT_TRIES_MAX) % this.transports.length];
  }

  /** Whether the hello is out: what is followed from now on must be asked for separately. */
  get #greeted() {
    return this.#link === "greeting" || this.#link === "open";
  }

  /** Where the collection's feed goes on. */
  get position() {
    return this.#position;
  }

  /** @returns {Output | undefined} */
  pollOutput() {
    return this.#outputs.shift();
  }

  /**
   * @param {Input} input
   * @param {{ nowMs: number, random: number }} at the time, and a number in [0, 1) drawn for this input
   */
  handleInput(input, { nowMs, random }) {
    switch (input.type) {
      case "connect":
        this.#wanted = true;
        this.#connect();
        break;
      case "disconnect":
        this.#wanted = false;
        this.#hangUp();
        break;
      case "transports":
        this.transports = input.transports;
        this.#failures = 0;
        this.#hangUp();
        this.#connect();
        break;
      case "network":
        this.#onNetwork(input.online);
        break;
      case "token":
        this.token = input.token;
        if (this.#greeted && input.token) this.#send({ type: "authenticate", token: input.token });
        break;
      case "opened":
        this.#greet();
        break;
      case "message":
        this.#silentBeats = 0;
        this.#onMessage(input.message, random);
        break;
      case "synced":
        this.#take(input.message);
        break;
      case "closed":
        if (this.#link !== "closed") this.#reconnectLater(random);
        break;
      case "timer":
        this.#onTimer(input.name, random);
        break;
      case "open":
        this.#open(input.documentId, input.record);
        break;
      case "close":
        this.#close(input.documentId);
        break;
      case "show":
        this.#show(input.documentId, input.data);
        break;
      case "watch":
        this.#position = input.position;
        this.#positionTime = undefined;
        this.#collectionLive = false;
        if (this.#greeted) this.#send({ type: "subscribe", collection: { cursor: input.position } });
        break;
      case "write":
        this.#write(input, nowMs);
        break;
    }
    this.#emitStatus();
  }

  // The connection

  #connect() {
    if (!this.#wanted || !this.#networkOnline || this.#link !== "closed") return;
    this.#transport = this.transport;
    this.#link = "opening";
    this.#out({ type: "clearTimer", name: "reconnect" });
    this.#out({ type: "setTimer", name: "welcome", delayMs: WELCOME_WAIT_MS });
    this.#out({ type: "open", transport: this.#transport });
  }

  #greet() {
    if (this.#link !== "opening") return;
    this.#link = "greeting";
    /** @type {Record<string, object>} */
    const documents = {};
    for (const [documentId, { manager }] of this.#documents) documents[documentId] = resume(manager);
    const time = this.#positionTime === undefined ? {} : { timestamp: this.#positionTime };
    const collection = this.#position === undefined ? undefined : { cursor: this.#position, ...time };
    const { clientId, token } = this;
    this.#send({ type: "hello", clientId, ...(token && { token }), documents, ...(collection && { collection }) });
  }

  /** @param {boolean} online what the device says about its network; a "no" is believed, a "yes" is tried */
  #onNetwork(online) {
    this.#networkOnline = online;
    if (!online) this.#hangUp();
    else if (this.#link === "closed") {
      this.#failures = 0;
      this.#connect();
    }
  }

  /** @param {number} random */
  #reconnectLater(random, atLeastMs = 0) {
    this.#hangUp();
    if (!this.#wanted) return;
    const ceiling = Math.min(RECONNECT_PAUSE_MAX_MS, RECONNECT_PAUSE_MIN_MS * 2 ** this.#failures);
    this.#failures += 1;
    // Between half of the pause and all of it: clients that were cut off together don't come back together.
    const delayMs = Math.max(atLeastMs, ceiling / 2) + (ceiling / 2) * random;
    if (this.#networkOnline) this.#out({ type: "setTimer", name: "reconnect", delayMs: Math.round(delayMs) });
  }

  #hangUp() {
    for (const name of /** @type {TimerName[]} */ (["welcome", "heartbeat", "answer", "retry", "reconnect"])) {
      this.#out({ type: "clearTimer", name });
    }
    if (this.#link !== "closed") this.#out({ type: "close" });
    this.#link = "closed";
    this.#collectionLive = false;
    for (const followed of this.#documents.values()) {
      followed.live = false;
      followed.inFlight = false;
      // A server that was set back may never come to that version.
      followed.waitFor = 0;
      // Whether the write is stored will be seen when its event comes, or by sending it again, which changes nothing.
      followed.manager.storedAt = undefined;
      // Cut off, nobody is known to be here.
      for (const clientId of [...followed.others.keys()]) this.#onPresence({ documentId: followed.manager.documentId, clientId, data: null });
    }
  }

  /**
   * @param {TimerName} name
   * @param {number} random
   */
  #onTimer(name, random) {
    if (name === "reconnect") this.#connect();
    else if (name === "retry") this.#pushAll();
    else if (name === "welcome" || name === "answer") this.#reconnectLater(random);
    else if (this.#silentBeats >= 2) this.#reconnectLater(random);
    else {
      this.#silentBeats += 1;
      this.#send({ type: "ping" });
      this.#out({ type: "setTimer", name: "heartbeat", delayMs: HEARTBEAT_MS });
    }
  }

  // The server's messages

  /**
   * @param {any} message
   * @param {number} random
   */
  #onMessage(message, random) {
    if (this.#link === "closed" || this.#link === "opening") return;
    switch (message.type) {
      case "welcome":
        this.#link = "open";
        this.#silentBeats = 0;
        this.#out({ type: "clearTimer", name: "welcome" });
        if (this.#transport === "websocket") this.#out({ type: "setTimer", name: "heartbeat", delayMs: HEARTBEAT_MS });
        return;
      case "events":
      case "snapshot":
        return this.#take(message);
      case "live":
        return this.#onLive(message);
      case "pushed":
      case "rejected":
        return this.#onAnswer(message, random);
      case "resync":
        if (message.collection) {
          this.#position = message.position ?? this.#position;
          this.#positionTime = undefined;
          this.#collectionLive = false;
          this.#emit({ type: "collectionLost", position: this.#position ?? 0 });
        }
        // A document's snapshot follows; there is nothing to do before it is here.
        return;
      case "presence":
        return this.#onPresence(message);
      case "drain":
        return this.#reconnectLater(random, message.reconnectAfterMs);
      case "error":
        return this.#emit({ type: "error", problem: message.problem, documentId: message.documentId });
    }
  }

  /** Takes events or a snapshot, from the connection or from a request beside it. @param {any} message */
  #take(message) {
    if (message.type === "snapshot") return this.#onSnapshot(message);
    for (const event of message.events) {
      if (message.collection) this.#onCollectionEvent(event);
      else this.#onEvent(event);
    }
  }

  /** @param {Event} event */
  #onEvent(event) {
    const followed = this.#documents.get(event.documentId);
    if (!followed) return;
    try {
      const { outcome, conflicts } = followed.manager.onEvent(event);
      if (outcome === "known") return;
      if (outcome === "gap") return this.#subscribe(followed);
      this.#confirmed(followed, conflicts);
      this.#emit({ type: "event", event });
    } catch (error) {
      if (!(error instanceof PatchError)) throw error;
      // The state is not what the server thinks it is. Its snapshot puts that right.
      const { documentId } = event;
      this.#emit({ type: "error", problem: { title: "an event does not apply", detail: error.message }, documentId });
      this.#subscribe(followed, {});
    }
  }

  /** @param {Event} event */
  #onCollectionEvent(event) {
    if (this.#position !== undefined && event.position <= this.#position) return;
    this.#position = event.position;
    this.#positionTime = event.timestamp;
    this.#emit({ type: "collection", event });
  }

  /** @param {import("./state-manager.js").Snapshot & { documentId: string }} snapshot */
  #onSnapshot(snapshot) {
    const followed = this.#documents.get(snapshot.documentId);
    if (!followed) return;
    this.#confirmed(followed, followed.manager.onSnapshot(snapshot));
    this.#emit({ type: "snapshot", documentId: snapshot.documentId, version: snapshot.version });
  }

  /**
   * @param {Followed} followed
   * @param {import("./conflict-resolver.js").Conflict[]} conflicts
   */
  #confirmed(followed, conflicts) {
    const { documentId } = followed.manager;
    this.#changed(documentId);
    if (conflicts.length > 0) this.#emit({ type: "conflict", documentId, conflicts });
    this.#push(followed);
  }

  /** @param {any} live */
  #onLive(live) {
    if (live.collection) {
      this.#collectionLive = true;
      return this.#emit({ type: "collectionLive", position: live.position });
    }
    const followed = this.#documents.get(live.documentId);
    if (!followed) return;
    followed.live = true;
    // All events up to now are here: a create of an earlier connection that is not among them was not taken.
    if (!followed.inFlight) this.#notTaken(followed);
    this.#emit({ type: "live", documentId: live.documentId, version: live.version });
    if (followed.shown !== null) this.#sendPresence(followed);
    this.#push(followed);
  }

  // Presence

  /** What others show on a document, by client. @param {string} documentId */
  others(documentId) {
    return this.#documents.get(documentId)?.others ?? new Map();
  }

  /** @param {string} documentId @param {Json} data */
  #show(documentId, data) {
    const followed = this.#documents.get(documentId);
    if (!followed || equal(followed.shown, data)) return;
    followed.shown = data;
    if (followed.live) this.#sendPresence(followed);
  }

  /** Only a WebSocket carries presence. @param {Followed} followed */
  #sendPresence({ manager: { documentId }, shown }) {
    if (this.#transport === "websocket") this.#send({ type: "presence", documentId, data: shown });
  }

  /** @param {{ documentId: string, clientId: string, data: Json }} presence */
  #onPresence({ documentId, clientId, data }) {
    const others = this.#documents.get(documentId)?.others;
    if (!others) return;
    if (data === null) others.delete(clientId);
    else others.set(clientId, data);
    this.#emit({ type: "presence", documentId, clientId, data });
  }

  // Writes

  /**
   * @param {Extract<Input, { type: "write" }>} input
   * @param {number} nowMs
   */
  #write({ documentId, state, record }, nowMs) {
    const followed = this.#documents.get(documentId) ?? this.#follow(documentId, record);
    const isNew = !this.#documents.has(documentId);
    const changes = followed.manager.write(state, nowMs);
    this.#documents.set(documentId, followed);
    // After the write: a document that is made here has no history to ask for.
    if (isNew && this.#greeted) this.#subscribe(followed);
    if (!changes) return;
    this.#changed(documentId);
    this.#push(followed);
  }

  #pushAll() {
    for (const followed of this.#documents.values()) this.#push(followed);
  }

  /**
   * Sends the oldest write of a document. One at a time: so a write that is refused is never followed by a later one.
   *
   * @param {Followed} followed
   */
  #push(followed) {
    if (!followed.live || followed.inFlight || followed.manager.version < followed.waitFor) return;
    const push = followed.manager.nextPush();
    if (!push) return;
    followed.inFlight = true;
    followed.pushedOn = followed.manager.version;
    // That it is on its way must outlive this client.
    if (push.op === "create") this.#out({ type: "save", documentId: push.documentId });
    this.#send(push);
    this.#out({ type: "setTimer", name: "answer", delayMs: ANSWER_WAIT_MS });
  }

  /**
   * @param {any} answer
   * @param {number} random
   */
  #onAnswer(answer, random) {
    const followed = this.#documents.get(answer.documentId);
    if (!followed) return;
    followed.inFlight = false;
    const waiting = [...this.#documents.values()].some(({ inFlight }) => inFlight);
    this.#out(waiting ? { type: "setTimer", name: "answer", delayMs: ANSWER_WAIT_MS } : { type: "clearTimer", name: "answer" });
    if (answer.type === "pushed") {
      followed.manager.onPushed(answer);
      this.#changed(answer.documentId);
      this.#push(followed);
    } else if (answer.clientSeq === followed.manager.nextSeq) {
      this.#onRejected(followed, answer, random);
    } else {
      // The refused write is gone or has moved on since; the one that is the oldest now goes out.
      this.#push(followed);
    }
  }

  /** @param {Followed} followed */
  #notTaken(followed) {
    const conflicts = followed.manager.onNotTaken();
    const { documentId } = followed.manager;
    if (conflicts.length > 0) this.#emit({ type: "conflict", documentId, conflicts });
  }

  /**
   * @param {Followed} followed
   * @param {any} rejected
   * @param {number} random
   */
  #onRejected(followed, { documentId, problem, current }, random) {
    const kind = String(problem.type).replace("urn:weft:problem:", "");
    if (PASSING.has(kind) || problem.status >= 500) {
      this.#out({ type: "setTimer", name: "retry", delayMs: (problem.retryAfterMs ?? 1000) + Math.round(500 * random) });
      return;
    }
    this.#notTaken(followed);
    if (kind === "sequence-gap") {
      followed.manager.renumber(problem.expected);
      this.#push(followed);
    } else if (OUTDATED.has(kind)) {
      const actual = current?.version ?? problem.actual;
      if (actual > followed.manager.version) followed.waitFor = actual;
      // The events came first: the write is rebased already.
      else if (followed.pushedOn < followed.manager.version) this.#push(followed);
      // Refused though nothing is newer: what is held here is not what the server holds. Its snapshot puts that right.
      else this.#subscribe(followed, {});
    } else {
      const lost = followed.manager.dropOldest();
      this.#changed(documentId);
      this.#emit({ type: "refused", documentId, lost, problem });
      this.#push(followed);
    }
  }

  // Documents

  /**
   * @param {string} documentId
   * @param {DocumentRecord} [record]
   */
  #open(documentId, record) {
    if (this.#documents.has(documentId)) return;
    const followed = this.#follow(documentId, record);
    this.#documents.set(documentId, followed);
    if (this.#greeted) this.#subscribe(followed);
  }

  /**
   * @param {string} documentId
   * @param {DocumentRecord} [record]
   * @returns {Followed}
   */
  #follow(documentId, record) {
    const manager = new StateManager({ documentId, clientId: this.clientId, resolver: this.resolver });
    if (record) manager.restore(record);
    return { manager, live: false, inFlight: false, pushedOn: 0, waitFor: 0, shown: null, others: new Map() };
  }

  /** @param {string} documentId */
  #close(documentId) {
    const followed = this.#documents.get(documentId);
    // A document with writes under way stays until they are answered.
    if (!followed || followed.manager.pending.length > 0) return;
    this.#documents.delete(documentId);
    if (this.#greeted) this.#send({ type: "unsubscribe", documents: [documentId] });
  }

  /**
   * @param {Followed} followed
   * @param {object} [from]
   */
  #subscribe(followed, from = resume(followed.manager)) {
    followed.live = false;
    this.#send({ type: "subscribe", documents: { [followed.manager.documentId]: from } });
  }

  // Outputs

  /** @param {Output} output */
  #out(output) {
    this.#outputs.push(output);
  }

  /** @param {any} message */
  #send(message) {
    this.#out({ type: "send", message });
  }

  /** @param {ClientEvent} event */
  #emit(event) {
    this.#out({ type: "emit", event });
  }

  /** @param {string} documentId */
  #changed(documentId) {
    this.#out({ type: "save", documentId });
    this.#emit({ type: "change", documentId });
  }

  #emitStatus() {
    const { status, transport, unsent } = this;
    // A welcome is not enough: a server that breaks right after it must not be asked again and again.
    if (status === "live") this.#failures = 0;
    const key = `${status} ${transport} ${unsent}`;
    if (key === this.#emitted) return;
    this.#emitted = key;
    this.#emit({ type: "status", status, transport, unsent });
  }
}

/**
 * Where a document goes on: after the last event that is held, or with the latest state when nothing is. One that is
 * made here goes on from nothing. The event is named, so that a server that was set back, and has another one of that
 * number since, sends its state.
 *
 * @param {StateManager} manager
 */
function resume({ version, timestamp, pending }) {
  if (version > 0 && timestamp !== undefined) return { cursor: version, timestamp };
  return version > 0 || pending.length > 0 ? { cursor: version } : {};
}
