/** The connection to the node: a WebSocket that comes back by itself. @module */

/** The first pause before another attempt, which doubles up to the second. */
const PAUSE_MIN_MS = 200;
const PAUSE_MAX_MS = 5000;
/** Messages that wait while nothing may change; above it the connection ends, and what they said is asked for again. */
const WAITING_MAX = 1000;
/** How long an attempt may take. */
const CONNECT_MAX_MS = 8000;
/** The node's word that it will not have what this window says; see the program's `socket.rs`. */
const REFUSED = 1008;
/** The pause after a node has refused a window that sends it nothing but what it has and who it is. */
const PAUSE_REFUSED_MS = 60_000;

/** @typedef {"offline" | "connecting" | "live"} Status */

/**
 * Tells `status`, and `refused` with a reason.
 *
 * A node that has refused what was sent refuses it the next time, too. From then on this window sends no edits: it follows
 * the others, what is typed stays in the browser, and the next window that is opened tries once more.
 */
export class Link extends EventTarget {
  /** @type {Status} */
  status = "offline";
  /** Why the node will not have what is typed here. @type {string | undefined} */
  refused = undefined;
  /** @type {WebSocket | undefined} */
  #socket = undefined;
  #failures = 0;
  #timer = 0;
  /** @type {Uint8Array[]} */
  #waiting = [];
  /** Whether the text must not change now. @type {() => boolean} */
  isHeld = () => false;

  /** @param {string} url @param {import("./replica.js").Replica} replica */
  constructor(url, replica) {
    super();
    this.url = url;
    this.replica = replica;
    replica.addEventListener("local", (event) => {
      if (this.refused === undefined) this.#send(/** @type {CustomEvent} */ (event).detail.message);
    });
    replica.addEventListener("caught-up", () => this.#is("live"));
  }

  /** Connects now, whatever the pause. */
  connect() {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#is("connecting");
    this.#timer = setTimeout(() => this.#drop(socket), CONNECT_MAX_MS);
    socket.onopen = () => {
      clearTimeout(this.#timer);
      for (const message of this.replica.greeting(this.refused === undefined)) socket.send(message);
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      this.#waiting.push(new Uint8Array(data));
      if (this.#waiting.length > WAITING_MAX) this.#drop(socket);
      else this.receive();
    };
    socket.onclose = ({ code, reason }) => {
      const again = this.refused !== undefined;
      if (code === REFUSED && !again) {
        this.refused = reason;
        this.dispatchEvent(new CustomEvent("refused", { detail: reason }));
      }
      this.#drop(socket, code === REFUSED && again ? PAUSE_REFUSED_MS : undefined);
    };
  }

  /** Breaks the connection, as a lost network does, and begins anew. */
  disconnect() {
    if (this.#socket) this.#drop(this.#socket);
  }

  /** Takes in what has come, unless the text must not change now. */
  receive() {
    while (this.#waiting.length > 0 && !this.isHeld()) {
      try {
        this.replica.receive(/** @type {Uint8Array} */ (this.#waiting.shift()));
        this.#failures = 0;
      } catch (error) {
        // Not a message that this page knows: what it lacks it asks for again.
        console.info("a message was not understood", error);
        this.disconnect();
      }
    }
  }

  /** Sends what need not arrive. @param {Uint8Array} message */
  show(message) {
    this.#send(message);
  }

  /** @param {Uint8Array} message */
  #send(message) {
    // What is not sent now is in the next greeting.
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(message);
  }

  /** @param {WebSocket} socket @param {number} [pauseMs] */
  #drop(socket, pauseMs) {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    this.#waiting = [];
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#is("offline");
    const pause = pauseMs ?? Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** this.#failures++);
    // Windows that lost the same node do not all come back at once.
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.connect(), pause * (0.5 + Math.random() / 2));
  }

  /** @param {Status} status */
  #is(status) {
    if (this.status === status) return;
    this.status = status;
    this.dispatchEvent(new Event("status"));
  }
}
