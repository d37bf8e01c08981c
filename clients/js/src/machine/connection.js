/**
 * The connection: when it is made, by which transport, when it counts as dead, and when it is tried again. Of what is
 * said on it, it knows that there is a welcome.
 *
 * @module
 */

/** @typedef {import("./messages.js").Outputs} Outputs */
/** @typedef {import("./messages.js").TransportName} TransportName */
/** @typedef {import("./messages.js").TimerName} TimerName */

/** The first pause before connecting again; it doubles with each failure. */
export const RECONNECT_PAUSE_MIN_MS = 250;
/** The longest pause before connecting again. */
export const RECONNECT_PAUSE_MAX_MS = 15_000;
/** So many attempts in a row that were never live, and the next transport is tried. */
export const TRANSPORT_TRIES_MAX = 2;
/** How long a transport may take from the first step to the welcome; then it counts as failed. */
export const WELCOME_WAIT_MS = 10_000;
/** How often a silent WebSocket is asked whether it is alive; after two silent rounds it counts as dead. */
export const HEARTBEAT_MS = 10_000;

/** @type {TimerName[]} What is waited for only while there is a connection, or until there is one. */
const TIMERS = ["welcome", "heartbeat", "answer", "reconnect"];

export class Connection {
  wanted = false;
  #networkOnline = true;
  /** @type {"closed" | "opening" | "greeting" | "open"} */
  link = "closed";
  /** @type {TransportName} The transport of the link, while there is one. */
  #transport = "websocket";
  /** Failed attempts since it was live. */
  failures = 0;
  /** How often the heartbeat rang since the last message. */
  #silentBeats = 0;
  #outputs;
  #onLost;

  /**
   * @param {Outputs} outputs
   * @param {TransportName[]} transports
   * @param {() => void} onLost hears that what was said on the connection is over, or that there was none
   */
  constructor(outputs, transports, onLost) {
    this.#outputs = outputs;
    this.transports = transports;
    this.#onLost = onLost;
  }

  /** The transport in use, or the one that is tried next. @returns {TransportName} */
  get transport() {
    if (this.link !== "closed") return this.#transport;
    return this.transports[Math.floor(this.failures / TRANSPORT_TRIES_MAX) % this.transports.length];
  }

  /** Whether the hello is out: what is followed from now on must be asked for separately. */
  get greeted() {
    return this.link === "greeting" || this.link === "open";
  }

  connect() {
    if (!this.wanted || !this.#networkOnline || this.link !== "closed") return;
    this.#transport = this.transport;
    this.link = "opening";
    this.#outputs.clearTimer("reconnect");
    this.#outputs.setTimer("welcome", WELCOME_WAIT_MS);
    this.#outputs.put({ type: "open", transport: this.#transport });
  }

  /** The transport is there: whether the hello is to be sent now. */
  onOpened() {
    if (this.link !== "opening") return false;
    this.link = "greeting";
    return true;
  }

  /** The server knows who is there. */
  onWelcome() {
    this.link = "open";
    this.#silentBeats = 0;
    this.#outputs.clearTimer("welcome");
    if (this.#transport === "websocket") this.#outputs.setTimer("heartbeat", HEARTBEAT_MS);
  }

  /** The server has said something, whatever it is. */
  onMessage() {
    this.#silentBeats = 0;
  }

  /** @param {number} random */
  onClosed(random) {
    if (this.link !== "closed") this.reconnectLater(random);
  }

  /** @param {boolean} online what the device says about its network; a "no" is believed, a "yes" is tried */
  onNetwork(online) {
    this.#networkOnline = online;
    if (!online) this.hangUp();
    else if (this.link === "closed") {
      this.failures = 0;
      this.connect();
    }
  }

  /** @param {TransportName[]} transports */
  onTransports(transports) {
    this.transports = transports;
    this.failures = 0;
    this.hangUp();
    this.connect();
  }

  /**
   * @param {number} random
   * @param {boolean} isBusy whether something large may be on its way, behind which a question would wait
   */
  onHeartbeat(random, isBusy) {
    if (isBusy) return this.#outputs.setTimer("heartbeat", HEARTBEAT_MS);
    if (this.#silentBeats >= 2) return this.reconnectLater(random);
    this.#silentBeats += 1;
    this.#outputs.send({ type: "ping" });
    this.#outputs.setTimer("heartbeat", HEARTBEAT_MS);
  }

  /** @param {number} random */
  reconnectLater(random, atLeastMs = 0) {
    this.hangUp();
    if (!this.wanted) return;
    const ceiling = Math.min(RECONNECT_PAUSE_MAX_MS, RECONNECT_PAUSE_MIN_MS * 2 ** this.failures);
    this.failures += 1;
    // Between half of the pause and all of it: clients that were cut off together don't come back together.
    const delayMs = Math.max(atLeastMs, ceiling / 2) + (ceiling / 2) * random;
    if (this.#networkOnline) this.#outputs.setTimer("reconnect", Math.round(delayMs));
  }

  hangUp() {
    for (const name of TIMERS) this.#outputs.clearTimer(name);
    if (this.link !== "closed") this.#outputs.put({ type: "close" });
    this.link = "closed";
    this.#onLost();
  }
}
