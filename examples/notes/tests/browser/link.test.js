import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Link } from "../../web/sync/link.js";
import { Replica } from "../../web/sync/replica.js";

/** A socket that the test opens and closes. */
class Socket {
  static OPEN = 1;
  /** @type {Socket[]} */
  static made = [];
  readyState = Socket.OPEN;
  /** @type {Uint8Array[]} */
  sent = [];
  constructor() {
    Socket.made.push(this);
  }
  /** @param {Uint8Array} message */
  send(message) {
    this.sent.push(message);
  }
  close() {}
}

const last = () => /** @type {any} */ (Socket.made.at(-1));

test("what a node has refused is not sent to it again, and its window follows on", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  globalThis.WebSocket = /** @type {any} */ (Socket);
  const replica = new Replica("window");
  const type = (/** @type {string} */ text) => replica.edit((api) => api.str(["text"]).ins(0, text));
  const link = new Link("ws://node/socket", replica);
  /** @type {string[]} */
  const reasons = [];
  link.addEventListener("refused", (event) => reasons.push(/** @type {CustomEvent} */ (event).detail));
  type("refused");
  link.connect();
  last().onopen();
  assert.equal(last().sent.length, 2, "what it has, and the edit");
  last().onclose({ code: 1008, reason: "patch is not allowed" });
  assert.deepEqual(reasons, ["patch is not allowed"]);

  mock.timers.tick(5000);
  assert.equal(Socket.made.length, 2);
  last().onopen();
  assert.equal(last().sent.length, 1, "what it has, and no edit");
  type("kept");
  assert.equal(last().sent.length, 1);
  assert.equal(replica.unsent.length, 2, "what was typed stays here");

  // If the node refuses even that, it is left alone for a while.
  last().onclose({ code: 1008, reason: "not you" });
  mock.timers.tick(25_000);
  assert.equal(Socket.made.length, 2);
  mock.timers.tick(60_000);
  assert.equal(Socket.made.length, 3);
  assert.equal(reasons.length, 1, "it is said once");

  // The next window tries once more, with a lost network all is sent again as ever.
  const next = new Link("ws://node/socket", replica);
  next.connect();
  last().onopen();
  assert.equal(last().sent.length, 3);
  last().onclose({ code: 1006, reason: "" });
  mock.timers.tick(5000);
  last().onopen();
  assert.equal(last().sent.length, 3);
  mock.timers.reset();
});
