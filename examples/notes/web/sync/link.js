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

/** @typedef {"offline" | "connecting" | "live"} Status */

/** Tells `status`, and `refused` with a reason. */
export class Link extends EventTarget {
  /** @type {Status} */
  status = "offline";
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
    replica.addEventListener("local", (event) => this.#send(/** @type {CustomEvent} */ (event).detail.message));
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
      for (const message of this.replica.greeting()) socket.send(message);
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      this.#waiting.push(new Uint8Array(data));
      if (this.#waiting.length > WAITING_MAX) this.#drop(socket);
      else this.receive();
    };
    socket.onclose = ({ code, reason }) => {
      if (code === REFUSED) this.dispatchEvent(new CustomEvent("refused", { detail: reason }));
      this.#drop(socket);
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

  /** @param {WebSocket} socket */
  #drop(socket) {
    if (this.#socket !== socket) return;
    this.#socket = undefined;
    this.#waiting = [];
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    this.#is("offline");
    const pause = Math.min(PAUSE_MAX_MS, PAUSE_MIN_MS * 2 ** this.#failures++);
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
