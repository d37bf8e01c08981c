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
/**
 * So often a node that lacks what this window is built on is asked again: it may have just started, and be about to get that
 * from other nodes. With the pauses between, which double up to the longest, it takes 2 to 5 seconds.
 */
const STRANGE_TRIES = 6;
/** The same where only other nodes can bring it, which may be about to start as well: it takes a quarter to half a minute. */
const AWAITED_TRIES = 18;
const PAUSE_STRANGE_MS = 2000;
/** The pause after a node has refused a window that sends it nothing but what it has and who it is. */
const PAUSE_REFUSED_MS = 60_000;

/** @typedef {"offline" | "connecting" | "live"} Status */

/**
 * Tells `status`, `refused` with a reason, and `strange` with the id of a store that this window can't go on with.
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
  /** How often in a row the node lacked what this window is built on. */
  #strange = 0;
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
    const detail = (/** @type {Event} */ event) => /** @type {CustomEvent} */ (event).detail;
    replica.addEventListener("send", (event) => detail(event).messages.forEach((/** @type {Uint8Array} */ message) => this.#send(message)));
    replica.addEventListener("welcome", () => (this.#strange = 0));
    replica.addEventListener("strange", (event) => this.#meets(detail(event)));
    replica.addEventListener("caught-up", () => {
      this.#failures = 0;
      this.#is("live");
    });
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
      socket.send(this.replica.greeting(this.refused === undefined));
      this.dispatchEvent(new Event("open"));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      this.#waiting.push(new Uint8Array(data));
      if (this.#waiting.length > WAITING_MAX) this.#drop(socket);
      else this.receive();
    };
    socket.onclose = ({ code, reason }) => {
      if (code === REFUSED && this.replica.brings) {
        // It has lost what this window is built on, and will not have it back.
        return this.#isStrange(this.replica.store);
      }
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
      } catch (error) {
        // Not a message that this page knows: what it lacks it asks for again.
        console.info("a message was not understood", error);
        this.disconnect();
      }
    }
  }

  /** @param {{ store: string | undefined, isAwaited?: boolean }} met */
  #meets({ store, isAwaited = false }) {
    this.#strange += 1;
    if (this.#strange >= (isAwaited ? AWAITED_TRIES : STRANGE_TRIES)) this.#isStrange(store);
    else if (this.#socket) this.#drop(this.#socket, Math.min(PAUSE_STRANGE_MS, PAUSE_MIN_MS * 2 ** (this.#strange - 1)));
  }

  /** @param {string | undefined} store */
  #isStrange(store) {
    this.disconnect();
    this.dispatchEvent(new CustomEvent("strange", { detail: store }));
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
