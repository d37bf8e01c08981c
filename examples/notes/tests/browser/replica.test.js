import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import { Replica } from "../../web/sync/replica.js";
import { decode, encodePatch, encodePresence, encodeState } from "../../web/sync/wire.js";
import { varint } from "./messages.js";
import { Program } from "./program.js";

const hex = (/** @type {Uint8Array} */ bytes) => Buffer.from(bytes).toString("hex");

test("messages are the bytes that the format says", () => {
  const vector = new Map([[65_536, 5], [2 ** 53 - 1, 2 ** 53 - 1]]);
  assert.equal(hex(encodeState("w", vector)), "0201770302" + "80800405" + "ffffffffffffff0f".repeat(2));
  assert.equal(hex(encodePatch(300, Uint8Array.of(7))), "01ac0207");
  assert.equal(hex(encodePresence("ann", new TextEncoder().encode("x"))), "0301" + "00".repeat(16) + "03616e6e78");
  assert.deepEqual(decode(encodeState("w", vector)), { kind: "state", vector });
});

test("a welcome is the bytes that the format says", () => {
  const welcome = Buffer.from("0204" + "6e6f6465" + "13" + "00000000000000ff" + "02" + "01" + "808004" + "0305", "hex");
  assert.deepEqual(decode(welcome), { kind: "welcome", store: "00000000000000ff", sessions: 2, lacks: [{ sid: 65_536, after: 3, upto: 5 }], takesBack: true });
  const unnamed = Buffer.from("0204" + "6e6f6465" + "13" + "00".repeat(8) + "0000", "hex");
  const takesNothing = Buffer.from("0204" + "6e6f6465" + "14" + "00".repeat(8) + "0000", "hex");
  assert.deepEqual(decode(takesNothing), { kind: "welcome", store: undefined, sessions: 0, lacks: [], takesBack: false });
  assert.deepEqual(decode(unnamed), { kind: "welcome", store: undefined, sessions: 0, lacks: [], takesBack: true });
});

test("messages that are cut anywhere, or none, are refused", () => {
  const whole = Buffer.from("0201770302" + "80800405" + "80800405", "hex");
  for (let end = 0; end < whole.length; end++) assert.throws(() => decode(whole.subarray(0, end)), Error, `${end}`);
  for (const bytes of ["09", "02017709", "0201770200".replace("02017702", "0201770b")]) assert.throws(() => decode(Buffer.from(bytes, "hex")));
});

/** A window without a browser: a replica on a socket of the program. */
class Client {
  /** @param {string} name @param {import("../../web/sync/replica.js").Kept} [kept] */
  constructor(name, kept) {
    this.replica = new Replica(name, kept && { kept });
    this.replica.addEventListener("send", ({ detail }) => {
      if (this.socket?.readyState === WebSocket.OPEN) for (const message of detail.messages) this.socket.send(message);
    });
  }

  /** @param {Program} program */
  async connect(program) {
    const socket = new WebSocket(`ws://${program.address}/socket`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.closed = new Promise((resolve) => socket.addEventListener("close", resolve));
    socket.onmessage = ({ data }) => this.replica.receive(new Uint8Array(data));
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error("no connection"));
    });
    socket.send(this.replica.greeting());
    await this.until("caught-up", () => this.replica.caughtUp);
  }

  disconnect() {
    this.socket.close();
    return this.closed;
  }

  /** @param {string} what @param {() => boolean} holds */
  async until(what, holds) {
    const deadline = AbortSignal.timeout(20_000);
    while (!holds()) {
      await new Promise((resolve, reject) => {
        for (const type of ["remote", "snapshot", "acknowledged", "caught-up", "local"]) this.replica.addEventListener(type, resolve, { once: true });
        deadline.addEventListener("abort", () => reject(new Error(`${what}: ${this.replica.text("text")}`)), { once: true });
      });
    }
  }

  /** @param {string} text */
  shows(text) {
    return this.until(`expected ${text}`, () => this.replica.text("text") === text);
  }

  /** @param {number} at @param {string} text */
  types(at, text) {
    this.replica.edit((api) => api.str(["text"]).ins(at, text));
  }

  saved() {
    return this.until("everything is durable", () => this.replica.unsent.length === 0);
  }
}

test("replicas in Node agree with the terminal, over the program's death", async () => {
  const program = await Program.start();
  try {
    const ann = new Client("ann");
    const bo = new Client("bo");
    await ann.connect(program);
    await bo.connect(program);
    ann.types(0, "warp");
    await ann.saved();
    await bo.shows("warp");
    await program.type("ins 1:5  and weft");
    await Promise.all([ann, bo].map((client) => client.shows("warp and weft")));
    await program.kill();
    // Both go on alone, and know what is not durable.
    ann.types(0, "The ");
    bo.types(13, "!");
    assert.deepEqual([ann.replica.unsent.length, bo.replica.unsent.length], [1, 1]);
    await program.restart();
    await ann.connect(program);
    await bo.connect(program);
    await Promise.all([ann, bo].map((client) => client.shows("The warp and weft!")));
    await Promise.all([ann.saved(), bo.saved()]);
    assert.equal((await program.note()).text, "The warp and weft!");
    // What is acknowledged is on disk: it is there after another death.
    await program.kill();
    await program.restart();
    assert.equal((await program.note()).text, "The warp and weft!");
    const late = new Client("late");
    await late.connect(program);
    assert.equal(late.replica.text("text"), "The warp and weft!");
  } finally {
    await program.stop();
  }
});

test("what a node has lost is brought back by a window that has it", async () => {
  const program = await Program.start();
  try {
    const [ann, bo] = [new Client("ann"), new Client("bo")];
    await ann.connect(program);
    await bo.connect(program);
    ann.types(0, "warp");
    await ann.saved();
    await bo.shows("warp");
    bo.types(4, " and weft");
    await bo.saved();
    await ann.shows("warp and weft");
    await program.kill();
    await program.empty();
    await program.restart();
    // Both have it, each patch is taken once.
    ann.types(13, "!");
    await Promise.all([ann.connect(program), bo.connect(program)]);
    await ann.saved();
    await bo.shows("warp and weft!");
    assert.equal((await program.note()).text, "warp and weft!");
    const late = new Client("late");
    await late.connect(program);
    assert.equal(late.replica.text("text"), "warp and weft!");
  } finally {
    await program.stop();
  }
});

test("what a window brings back is in it, and unsent, whatever snapshot comes in between", () => {
  const [ann, node] = [new Replica("ann"), new Replica("node")];
  /** @type {Uint8Array[]} */
  const sent = [];
  ann.addEventListener("send", ({ detail }) => sent.push(...detail.messages));
  const message = (/** @type {number} */ kind, /** @type {number[]} */ ...rest) => Uint8Array.of(2, 1, 110, kind, ...rest);
  const welcome = (/** @type {number[]} */ ...lacks) => message(19, 0, 0, 0, 0, 0, 0, 0, 7, 1, ...(lacks.length ? [1, ...lacks] : [0]));
  ann.greeting();
  ann.receive(welcome());
  ann.edit((api) => api.str(["text"]).ins(0, "warp"));
  const [{ sid, last }] = ann.unsent;
  const durable = encodeState("n", new Map([[sid, last]]));
  ann.receive(durable);
  assert.deepEqual([ann.unsent.length, ann.brings], [0, false]);
  // The node's store was put back: it lacks that, and sends a document that does not have it.
  ann.greeting();
  ann.receive(welcome(...varint(sid), 0, ...varint(last)));
  assert.deepEqual([sent.length, ann.unsent.length, ann.brings], [2, 1, true]);
  const bytes = node.model.toBinary();
  ann.receive(message(6, 0, 1, ...varint(65_536), 1, ...varint(bytes.length), 0, 0, 0, 0, 0, 0, 0, 9));
  ann.receive(message(8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, ...bytes));
  assert.equal(ann.vector.get(65_536), 1, "the snapshot was taken");
  assert.equal(ann.text("text"), "warp");
  ann.receive(durable);
  assert.deepEqual([ann.unsent.length, ann.brings], [0, false]);
});

test("a store that lacks what a window is built on is strange to it, and gets nothing of it", async () => {
  const program = await Program.start();
  try {
    const first = new Client("first");
    await first.connect(program);
    first.types(0, "seen");
    await first.saved();
    const kept = { snapshot: { bytes: first.replica.model.toBinary(), vector: first.replica.vector }, log: [] };
    await program.kill();
    await program.empty();
    await program.restart();
    await program.type("add another text");
    // Nothing of what the window has in its snapshot is a patch any more.
    const next = new Client("next", kept);
    const strange = new Promise((resolve) => next.replica.addEventListener("strange", resolve));
    next.types(4, " and lost");
    void next.connect(program).catch(() => {});
    const { detail } = await strange;
    assert.match(detail.store, /^[0-9a-f]{16}$/);
    // One that has all of its patches does not mix them with another text either.
    const other = new Client("other", { log: first.replica.unsent });
    other.replica.vector = new Map(first.replica.vector);
    other.replica.store = first.replica.store;
    const again = new Promise((resolve) => other.replica.addEventListener("strange", resolve));
    void other.connect(program).catch(() => {});
    await again;
    assert.equal((await program.note()).text, "another text\n");
  } finally {
    await program.stop();
  }
});

test("a node of a group with the DAG is brought nothing back, and its window can go on anew", async () => {
  const program = await Program.start("--dag");
  try {
    const first = new Client("first");
    await first.connect(program);
    first.types(0, "seen");
    await first.saved();
    await first.disconnect();
    await program.kill();
    await program.empty();
    await program.restart();
    const strange = new Promise((resolve) => first.replica.addEventListener("strange", resolve));
    void first.connect(program).catch(() => {});
    const { detail } = await strange;
    assert.ok(detail.isAwaited);
    assert.notEqual(detail.store, first.replica.store);
    assert.equal((await program.note()).text, "");
    const anew = new Client("anew");
    await anew.connect(program);
    anew.types(0, "new");
    await anew.saved();
    // Nothing is lacking: what is unsent is sent as ever.
    await anew.disconnect();
    anew.types(3, "er");
    await anew.connect(program);
    await anew.saved();
    const late = new Client("late");
    await late.connect(program);
    assert.equal(late.replica.text("text"), "newer");
  } finally {
    await program.stop();
  }
});

test("what a closed window could not send is sent by the next one", async () => {
  const program = await Program.start();
  try {
    const first = new Client("first");
    await first.connect(program);
    first.types(0, "seen ");
    await first.saved();
    await first.disconnect();
    first.types(5, "unseen");
    const { bytes, vector } = { bytes: first.replica.model.toBinary(), vector: first.replica.vector };
    const log = first.replica.unsent.map((entry) => ({ ...entry, own: true }));
    const next = new Client("next", { snapshot: { bytes, vector }, log });
    assert.equal(next.replica.text("text"), "seen unseen");
    next.types(11, "!");
    await next.connect(program);
    await next.saved();
    assert.equal((await program.note()).text, "seen unseen!");
  } finally {
    await program.stop();
  }
});

test("a message that is none ends the socket with a reason, and harms nobody", async () => {
  const program = await Program.start();
  try {
    const [good, bad] = [new Client("good"), new Client("bad")];
    await good.connect(program);
    for (const message of [Uint8Array.of(9), Uint8Array.of(1, 1, 255, 255), new Uint8Array(0), encodePatch(1, Uint8Array.of(1, 2, 3))]) {
      await bad.connect(program);
      bad.socket.send(message);
      const { code, reason } = await bad.closed;
      assert.equal(code, 1008);
      assert.notEqual(reason, "");
    }
    good.types(0, "fine");
    await good.saved();
  } finally {
    await program.stop();
  }
});
