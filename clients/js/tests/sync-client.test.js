/** The driver: what it does with a store that fails, and with a clock that is wrong. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { MemoryStore } from "../src/stores/memory.js";
import { SyncClient } from "../src/sync-client.js";

const SERVER_TIME = 1_800_000_000_000;

/** A socket whose other end is the test. */
class Socket {
  static OPEN = 1;
  /** @type {Socket[]} */
  static all = [];
  readyState = Socket.OPEN;
  sent = [];

  constructor() {
    Socket.all.push(this);
    queueMicrotask(() => this.onopen?.());
  }

  send(text) {
    const message = JSON.parse(text);
    this.sent.push(message);
    if (message.type === "hello") this.say({ type: "welcome", serverTime: SERVER_TIME });
    const { documents = {} } = message;
    for (const documentId of Object.keys(documents)) {
      if (documents[documentId].cursor === undefined) this.say({ type: "snapshot", documentId, version: 1, state: { gold: 1 }, stateVector: {}, createdAt: SERVER_TIME });
      this.say({ type: "live", documentId, version: 1 });
    }
  }

  say(message) {
    queueMicrotask(() => this.onmessage?.({ data: JSON.stringify(message) }));
  }

  close() {}

  get pushes() {
    return this.sent.filter(({ type }) => type === "push");
  }
}

function start(options) {
  Socket.all = [];
  const client = new SyncClient({ url: "http://server.test/", clientId: "me", transports: ["websocket"], WebSocket: Socket, ...options });
  const errors = [];
  client.on("error", ({ problem }) => errors.push(problem.title));
  client.open("g");
  client.connect();
  return { client, errors, live: new Promise((resolve) => client.on("live", resolve)) };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));

test("a store that fails keeps no write from the server, and is told once until it works again", async () => {
  const store = new MemoryStore();
  const put = store.put.bind(store);
  const quota = async () => {
    throw new DOMException("full", "QuotaExceededError");
  };
  store.put = quota;
  const { client, errors, live } = start({ store });
  try {
    await live;
    await assert.rejects(client.write("g", { gold: 2 }), /full/);
    await settle();
    assert.deepEqual([client.status, Socket.all.length, Socket.all[0].pushes.length], ["live", 1, 1]);
    await assert.rejects(client.write("g", { gold: 3 }));
    assert.deepEqual(errors, ["the browser did not keep a change"]);
    store.put = put;
    await client.write("g", { gold: 4 });
    store.put = quota;
    await assert.rejects(client.write("g", { gold: 5 }));
    assert.equal(errors.length, 2);
  } finally {
    store.put = put;
    client.disconnect();
    await client.saved().catch(() => {});
  }
});

for (const [hours, way] of [[3, "ahead"], [-3, "behind"]]) {
  test(`which edit was the later one does not depend on a clock that is three hours ${way}`, async () => {
    let now = SERVER_TIME + hours * 3_600_000;
    const { client, live } = start({ resolver: ConflictResolver.lastWriterWins(), now: () => now });
    try {
      await live;
      const others = (sequenceNum, gold, timestamp) => {
        const diff = { jsonPatch: [{ op: "replace", path: "/gold", value: gold }] };
        Socket.all[0].say({ type: "events", documentId: "g", events: [{ documentId: "g", sequenceNum, timestamp, position: 1, operation: "update", clientId: "ann", clientSeq: sequenceNum, vectorClock: {}, diff }] });
      };
      now += 1000;
      await client.write("g", { gold: 2 });
      others(2, 20, SERVER_TIME + 500);
      await settle();
      assert.deepEqual(client.document("g").view, { gold: 2 }, "the own one was later");
      others(3, 30, SERVER_TIME + 2000);
      await settle();
      assert.deepEqual(client.document("g").view, { gold: 30 }, "the other one was later");
    } finally {
      client.disconnect();
      await client.saved();
    }
  });
}
