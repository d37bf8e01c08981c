/**
 * The protocol of a client as a machine without IO: inputs go in, outputs come out; the time and the draw of the
 * random number are parameters. {@link SyncClient} drives it; the tests drive it without a network.
 *
 * This file says which part hears what. The parts are in `machine/`: the connection, the documents that are followed,
 * what comes in of them, what goes out, what others show, and the feed of the collection.
 *
 * @module
 */

import { Collection } from "./machine/collection.js";
import { Connection } from "./machine/connection.js";
import { Documents } from "./machine/documents.js";
import { Incoming } from "./machine/incoming.js";
import { Outputs } from "./machine/messages.js";
import { Outgoing } from "./machine/outgoing.js";
import { Presence } from "./machine/presence.js";

export { HEARTBEAT_MS, RECONNECT_PAUSE_MAX_MS, RECONNECT_PAUSE_MIN_MS, TRANSPORT_TRIES_MAX, WELCOME_WAIT_MS } from "./machine/connection.js";
export { ANSWER_WAIT_MS } from "./machine/outgoing.js";

/** @typedef {import("./conflict-resolver.js").ConflictResolver} ConflictResolver */
/** @typedef {import("./machine/messages.js").TransportName} TransportName */
/** @typedef {import("./machine/messages.js").Status} Status */
/** @typedef {import("./machine/messages.js").TimerName} TimerName */
/** @typedef {import("./machine/messages.js").Input} Input */
/** @typedef {import("./machine/messages.js").Output} Output */
/** @typedef {import("./machine/messages.js").ClientEvent} ClientEvent */

/** The close code of a WebSocket for a message that is too big. */
const CLOSED_TOO_BIG = 1009;

export class SyncMachine {
  #outputs = new Outputs();
  #documents = new Documents(this.#outputs, () => this.#connection.greeted);
  #collection = new Collection(this.#outputs);
  #presence = new Presence(this.#outputs, this.#documents, () => this.#connection.transport === "websocket");
  #outgoing;
  #incoming;
  #connection;
  /** @type {string | undefined} The status that was emitted last, to emit only changes. */
  #emitted = undefined;

  /**
   * @param {{ clientId: string, transports: TransportName[], resolver: ConflictResolver, token?: string }} options
   */
  constructor({ clientId, transports, resolver, token }) {
    this.clientId = clientId;
    this.resolver = resolver;
    this.token = token;
    this.#outgoing = new Outgoing(this.#outputs, this.#documents, clientId);
    this.#incoming = new Incoming(this.#outputs, this.#documents, this.#outgoing);
    this.#connection = new Connection(this.#outputs, transports, () => this.#cutOff());
  }

  get transports() {
    return this.#connection.transports;
  }

  /** @param {string} documentId */
  manager(documentId) {
    return this.#documents.get(documentId)?.manager;
  }

  get documentIds() {
    return this.#documents.ids;
  }

  /** How many writes wait for their answer, over all documents. */
  get unsent() {
    return this.#documents.unsent;
  }

  /** The writes that can't go, with their documents. */
  get held() {
    return this.#documents.all.flatMap(({ manager: { documentId, held } }) => held.map((each) => ({ documentId, ...each })));
  }

  /** What others show on a document, by client. @param {string} documentId */
  others(documentId) {
    return this.#documents.get(documentId)?.others ?? new Map();
  }

  /** Where the collection's feed goes on. */
  get position() {
    return this.#collection.position;
  }

  /** The transport in use, or the one that is tried next. */
  get transport() {
    return this.#connection.transport;
  }

  /** @returns {Status} */
  get status() {
    const { wanted, link, failures } = this.#connection;
    if (!wanted) return "off";
    if (link === "closed") return "offline";
    if (link !== "open") return failures > 0 ? "offline" : "connecting";
    return this.#collection.isLive && this.#documents.all.every(({ live }) => live) ? "live" : "catching-up";
  }

  /** @returns {Output | undefined} */
  pollOutput() {
    return this.#outputs.poll();
  }

  /**
   * @param {Input} input
   * @param {{ nowMs: number, random: number }} at the time, and a number in [0, 1) drawn for this input
   */
  handleInput(input, { nowMs, random }) {
    switch (input.type) {
      case "connect":
        this.#outgoing.forgiveAll();
        this.#connection.wanted = true;
        this.#connection.connect();
        break;
      case "disconnect":
        this.#connection.wanted = false;
        this.#connection.hangUp();
        break;
      case "transports":
        this.#outgoing.forgiveAll();
        this.#connection.onTransports(input.transports);
        break;
      case "network":
        this.#outgoing.forgiveAll();
        this.#connection.onNetwork(input.online);
        break;
      case "token":
        this.token = input.token;
        if (this.#connection.greeted && input.token) this.#outputs.send({ type: "authenticate", token: input.token });
        break;
      case "opened":
        if (this.#connection.onOpened()) this.#greet();
        break;
      case "message":
        this.#connection.onMessage();
        if (this.#connection.greeted) this.#onMessage(input.message, nowMs, random);
        break;
      case "synced":
        this.#take(input.message);
        break;
      case "closed":
        if (input.code === CLOSED_TOO_BIG) this.#outgoing.onTooBig();
        this.#connection.onClosed(random);
        break;
      case "timer":
        this.#onTimer(input, random);
        break;
      case "open":
        this.#documents.open(input.documentId, this.#own, input.record);
        break;
      case "close":
        this.#documents.close(input.documentId);
        break;
      case "show":
        this.#presence.show(input.documentId, input.data);
        break;
      case "watch":
        this.#collection.moveTo(input.position);
        if (this.#connection.greeted) this.#outputs.send({ type: "subscribe", collection: { cursor: input.position } });
        break;
      case "write":
        this.#write(input, nowMs);
        break;
      case "sendHeld":
        this.#sendHeld(input, nowMs);
        break;
      case "dropHeld":
        if (this.manager(input.documentId)?.dropHeld(input.id)) this.#outputs.changed(input.documentId);
        break;
    }
    this.#emitStatus();
  }

  /** Whose documents they are, and who decides about conflicts. */
  get #own() {
    return { clientId: this.clientId, resolver: this.resolver };
  }

  #greet() {
    const { clientId, token } = this;
    const documents = this.#documents.resumes;
    this.#outputs.send({ type: "hello", clientId, ...(token && { token }), documents, ...this.#collection.resume });
  }

  #cutOff() {
    this.#collection.cutOff();
    this.#documents.cutOff();
    this.#presence.cutOff();
  }

  /**
   * @param {{ name: TimerName, documentId?: string }} timer
   * @param {number} random
   */
  #onTimer({ name, documentId }, random) {
    if (name === "reconnect") this.#connection.connect();
    else if (name === "retry") this.#outgoing.onRetry(documentId);
    else if (name === "heartbeat") this.#connection.onHeartbeat(random, this.#outgoing.isWaiting);
    else this.#connection.reconnectLater(random);
  }

  /**
   * @param {any} message
   * @param {number} nowMs
   * @param {number} random
   */
  #onMessage(message, nowMs, random) {
    switch (message.type) {
      case "welcome":
        this.#outgoing.onWelcome(message);
        // Clocks of browsers may be hours off. Which of two edits was the later one is asked by the server's.
        if (Number.isFinite(message.serverTime)) this.#documents.onClock(message.serverTime - nowMs);
        return this.#connection.onWelcome();
      case "events":
      case "snapshot":
        return this.#take(message);
      case "live":
        return this.#onLive(message, random);
      case "pushed":
      case "rejected":
        return this.#outgoing.onAnswer(message, random);
      case "resync":
        // A document's snapshot follows; there is nothing to do before it is here.
        if (message.collection) this.#collection.onResync(message.position);
        return;
      case "presence":
        return this.#presence.onPresence(message);
      case "drain":
        return this.#connection.reconnectLater(random, message.reconnectAfterMs);
      case "error":
        return this.#outputs.emit({ type: "error", problem: message.problem, documentId: message.documentId });
    }
  }

  /** Takes events or a snapshot, from the connection or from a request beside it. @param {any} message */
  #take(message) {
    if (message.type === "snapshot") return this.#incoming.onSnapshot(message);
    for (const event of message.events) {
      if (message.collection) this.#collection.onEvent(event);
      else this.#incoming.onEvent(event);
    }
  }

  /**
   * @param {any} live
   * @param {number} random
   */
  #onLive(live, random) {
    if (live.collection) return this.#collection.onLive(live.position);
    const followed = this.#documents.get(live.documentId);
    if (!followed) return;
    this.#incoming.onLive(followed, live.version);
    this.#presence.onLive(followed);
    this.#outgoing.onLive(followed, random);
  }

  /**
   * @param {Extract<Input, { type: "write" }>} input
   * @param {number} nowMs
   */
  #write({ documentId, state, record }, nowMs) {
    let changes = false;
    // The write comes first: a document that is made here has no history to ask for.
    const followed = this.#documents.open(documentId, this.#own, record, ({ manager }) => (changes = manager.write(state, nowMs)));
    if (!changes) return;
    this.#outputs.changed(documentId);
    this.#outgoing.push(followed);
  }

  /**
   * Writes anew what was held.
   *
   * @param {{ documentId: string, id: number }} which
   * @param {number} nowMs
   */
  #sendHeld({ documentId, id }, nowMs) {
    const manager = this.manager(documentId);
    const state = manager?.withHeld(id);
    if (!manager || state === undefined) return;
    manager.dropHeld(id);
    this.#write({ type: "write", documentId, state }, nowMs);
    // Also where it had nothing left to say.
    this.#outputs.changed(documentId);
  }

  #emitStatus() {
    const { status, transport, unsent } = this;
    // A welcome is not enough: a server that breaks right after it must not be asked again and again.
    if (status === "live") this.#connection.failures = 0;
    const key = `${status} ${transport} ${unsent}`;
    if (key === this.#emitted) return;
    this.#emitted = key;
    this.#outputs.emit({ type: "status", status, transport, unsent });
  }
}
