import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Link } from "../../web/sync/link.js";
import { Replica } from "../../web/sync/replica.js";
import { encodeState } from "../../web/sync/wire.js";
import { varint } from "./messages.js";

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

/** The node's first word, from a store with so many sessions that lacks this: `[session, after, upto]`, each below 128. */
const welcome = (store = 1, sessions = 0, lacks = /** @type {number[][]} */ ([]), kind = 19) => ({
  data: Uint8Array.of(2, 1, 110, kind, 0, 0, 0, 0, 0, 0, 0, store, sessions, lacks.length, ...lacks.flat()).buffer,
});
const caughtUp = () => ({ data: Uint8Array.of(2, 1, 110, 1, 0, 0, 0, 0, 0, 0, 0, 0).buffer });

const start = () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  globalThis.WebSocket = /** @type {any} */ (Socket);
  Socket.made = [];
  const replica = new Replica("window");
  return { replica, link: new Link("ws://node/socket", replica), type: (/** @type {string} */ text) => replica.edit((api) => api.str(["text"]).ins(0, text)) };
};

test("what a node has refused is not sent to it again, and its window follows on", () => {
  const { replica, link, type } = start();
  /** @type {string[]} */
  const reasons = [];
  link.addEventListener("refused", (event) => reasons.push(/** @type {CustomEvent} */ (event).detail));
  type("refused");
  link.connect();
  last().onopen();
  assert.equal(last().sent.length, 1, "what it has");
  type("not before the node has said what it has");
  assert.equal(last().sent.length, 1);
  last().onmessage(welcome());
  assert.equal(last().sent.length, 3, "and both edits");
  last().onclose({ code: 1008, reason: "patch is not allowed" });
  assert.deepEqual(reasons, ["patch is not allowed"]);

  mock.timers.tick(5000);
  assert.equal(Socket.made.length, 2);
  last().onopen();
  last().onmessage(welcome());
  assert.equal(last().sent.length, 1, "what it has, and no edit");
  type("kept");
  assert.equal(last().sent.length, 1);
  assert.equal(replica.unsent.length, 3, "what was typed stays here");

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
  last().onmessage(welcome());
  assert.equal(last().sent.length, 4);
  last().onclose({ code: 1006, reason: "" });
  mock.timers.tick(5000);
  last().onopen();
  last().onmessage(welcome());
  assert.equal(last().sent.length, 4);
  mock.timers.reset();
});

test("a node that comes back is sent everything, whatever it was stopped for", () => {
  const { link, type } = start();
  link.addEventListener("refused", () => assert.fail("nothing was refused"));
  type("typed");
  link.connect();
  for (let i = 0; i < 3; i++) {
    last().onopen();
    last().onmessage(welcome());
    assert.equal(last().sent.length, 2);
    last().onclose({ code: 1013, reason: "sync manager is not running" });
    mock.timers.tick(5000);
    assert.equal(Socket.made.length, i + 2);
  }
  mock.timers.reset();
});

test("a node that lacks what a window is built on is asked a few times, sent nothing, and then told of", () => {
  const { replica, link, type } = start();
  replica.vector = new Map([[5, 9], [6, 3]]);
  type("typed");
  /** @type {string[]} */
  const stores = [];
  link.addEventListener("strange", (event) => stores.push(/** @type {CustomEvent} */ (event).detail));
  link.connect();
  const meets = () => {
    last().onopen();
    last().onmessage(welcome(7, 1, [[5, 0, 9], [6, 0, 3]]));
    assert.equal(last().sent.length, 1, "what it has, and nothing else");
  };
  for (let i = 1; i < 6; i++) {
    meets();
    assert.deepEqual(stores, []);
    mock.timers.tick(5000);
    assert.equal(Socket.made.length, i + 1);
  }
  meets();
  assert.deepEqual(stores, ["0000000000000007"]);
  mock.timers.reset();
});

test("where only other nodes can bring back what was lost they are given longer, and what they brought is gone on with", () => {
  const { replica, link, type } = start();
  replica.vector = new Map([[5, 9]]);
  type("typed");
  /** @type {string[]} */
  const stores = [];
  link.addEventListener("strange", (event) => stores.push(/** @type {CustomEvent} */ (event).detail));
  link.connect();
  const meets = (/** @type {number[][]} */ ...lacks) => {
    last().onopen();
    last().onmessage(welcome(7, 1, lacks, 20));
    return last().sent.length - 1;
  };
  const again = (/** @type {number} */ times) => {
    for (let i = 0; i < times; i++) {
      assert.equal(meets([5, 3, 9]), 0, "nothing is brought back or sent on top");
      assert.deepEqual(stores, []);
      mock.timers.tick(2000);
    }
  };
  again(17);
  assert.equal(meets(), 1, "it is there again, so what was typed is sent");
  last().onclose({ code: 1006, reason: "" });
  mock.timers.tick(5000);
  again(17);
  meets([5, 3, 9]);
  assert.deepEqual(stores, ["0000000000000007"]);
  mock.timers.reset();
});

test("only a node that has not yet taken back what it lost is left for refusing", () => {
  const { replica, link, type } = start();
  /** @type {string[]} */
  const told = [];
  for (const name of ["strange", "refused"]) link.addEventListener(name, () => told.push(name));
  type("typed");
  link.connect();
  last().onopen();
  last().onmessage(welcome());
  const [{ sid, last: upto }] = replica.unsent;
  const durable = { data: encodeState("n", new Map([[sid, upto]])).buffer };
  last().onmessage(durable);
  // It lost that, is sent it again, and has it.
  const lost = { data: Uint8Array.of(2, 1, 110, 19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, ...varint(sid), 0, ...varint(upto)).buffer };
  last().onclose({ code: 1006, reason: "" });
  mock.timers.tick(5000);
  last().onopen();
  last().onmessage(lost);
  last().onmessage(durable);
  last().onclose({ code: 1008, reason: "patch is not allowed" });
  assert.deepEqual(told, ["refused"]);
  // It lost it, and will not have it back.
  const next = new Link("ws://node/socket", replica);
  next.addEventListener("strange", () => told.push("strange"));
  next.connect();
  last().onopen();
  last().onmessage(lost);
  last().onclose({ code: 1008, reason: "patch is not allowed" });
  assert.deepEqual(told, ["refused", "strange"]);
  mock.timers.reset();
});

test("a node that closes behind each message is not asked five times a second", () => {
  const { link } = start();
  link.connect();
  for (let i = 0; i < 8; i++) {
    last().onopen();
    last().onmessage(welcome());
    last().onmessage({ data: Uint8Array.of(2, 1, 110, 99).buffer });
    mock.timers.tick(5000);
  }
  last().onopen();
  const before = Socket.made.length;
  last().onmessage({ data: Uint8Array.of(2, 1, 110, 99).buffer });
  mock.timers.tick(2000);
  assert.equal(Socket.made.length, before, "the pause has grown");
  mock.timers.tick(5000);
  last().onopen();
  last().onmessage(welcome());
  last().onmessage(caughtUp());
  last().onclose({ code: 1006, reason: "" });
  mock.timers.tick(300);
  assert.equal(Socket.made.length, before + 2, "after it was well the pause is short again");
  mock.timers.reset();
});
