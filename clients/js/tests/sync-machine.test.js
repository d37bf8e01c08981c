import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { RECONNECT_PAUSE_MAX_MS, SyncMachine, TRANSPORT_TRIES_MAX } from "../src/sync-machine.js";

/** A machine, and what it puts out for each input. `emit`s are left out unless asked for. */
function machine({ transports = ["websocket", "sse"], emits = false } = {}) {
  const it = new SyncMachine({ clientId: "me", transports, resolver: ConflictResolver.threeWay() });
  const feed = (input, random = 0.5) => {
    it.handleInput(input, { nowMs: 1, random });
    const outputs = [];
    for (let output = it.pollOutput(); output; output = it.pollOutput()) outputs.push(output);
    return outputs.filter(({ type }) => emits || type !== "emit");
  };
  const hear = (message) => feed({ type: "message", message });
  return { it, feed, hear };
}

/** A machine that is live on document `g` at version 3. */
function liveMachine(options) {
  const made = machine(options);
  made.feed({ type: "open", documentId: "g" });
  made.feed({ type: "connect" });
  made.feed({ type: "opened" });
  made.hear({ type: "welcome" });
  made.hear({ type: "snapshot", documentId: "g", version: 3, state: { gold: 1 }, stateVector: { ann: 3 } });
  made.hear({ type: "live", documentId: "g", version: 3 });
  assert.equal(made.it.status, "live");
  return made;
}

const sent = (outputs) => outputs.filter(({ type }) => type === "send").map(({ message }) => message);
const emitted = (outputs, type) => outputs.filter((output) => output.type === "emit" && output.event.type === type).map(({ event }) => event);
const update = (sequenceNum, gold, clientId = "ann", clientSeq = sequenceNum) => ({
  documentId: "g",
  timestamp: 1,
  sequenceNum,
  position: sequenceNum,
  operation: "update",
  diff: { version: sequenceNum, jsonPatch: [{ op: "replace", path: "/gold", value: gold }], mergePatch: null },
  vectorClock: { [clientId]: clientSeq },
  clientId,
  clientSeq,
});

test("connecting says hello and asks for what is missing", () => {
  const { it, feed } = machine();
  const record = { documentId: "g", version: 7, state: { gold: 1 }, stateVector: { ann: 7 }, pending: [] };
  feed({ type: "open", documentId: "g", record });
  feed({ type: "open", documentId: "new" });
  feed({ type: "watch", position: 40 });
  assert.deepEqual(feed({ type: "connect" }).at(-1), { type: "open", transport: "websocket" });
  assert.equal(it.status, "connecting");
  assert.deepEqual(sent(feed({ type: "opened" })), [
    { type: "hello", clientId: "me", documents: { g: { cursor: 7 }, new: {} }, collection: { cursor: 40 } },
  ]);
});

test("what is followed between the hello and the welcome is asked for too", () => {
  const { feed, hear } = machine();
  feed({ type: "connect" });
  feed({ type: "opened" });
  assert.deepEqual(sent(feed({ type: "watch", position: 4 })), [{ type: "subscribe", collection: { cursor: 4 } }]);
  assert.deepEqual(sent(feed({ type: "open", documentId: "g" })), [{ type: "subscribe", documents: { g: {} } }]);
  assert.deepEqual(sent(hear({ type: "welcome" })), []);
});

test("the status is live only when everything that is open has caught up", () => {
  const { it, feed, hear } = liveMachine();
  feed({ type: "open", documentId: "h" });
  assert.equal(it.status, "catching-up");
  hear({ type: "live", documentId: "h", version: 0 });
  assert.equal(it.status, "live");
  feed({ type: "watch", position: 0 });
  assert.equal(it.status, "catching-up");
  hear({ type: "live", collection: true, position: 0 });
  assert.equal(it.status, "live");
});

test("a write goes out when the document has caught up, and one at a time", () => {
  const { it, feed, hear } = liveMachine();
  const [push] = sent(feed({ type: "write", documentId: "g", state: { gold: 2 } }));
  assert.deepEqual([push.clientSeq, push.baseVersion], [1, 3]);
  assert.deepEqual(sent(feed({ type: "write", documentId: "g", state: { gold: 3 } })), []);
  assert.equal(it.unsent, 2);
  assert.deepEqual(sent(hear({ type: "pushed", documentId: "g", clientSeq: 1, version: 4, repeated: false, changed: true })), []);
  const [second] = sent(hear({ type: "events", documentId: "g", events: [update(4, 2, "me", 1)] }));
  assert.deepEqual([second.clientSeq, second.baseVersion], [2, 4]);
});

test("a refused write waits for what made it outdated, and goes out rebased under the same number", () => {
  const { feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 1, level: 2 } });
  const problem = { type: "urn:weft:problem:version-mismatch", expected: 3, actual: 5 };
  const rejected = { type: "rejected", documentId: "g", clientSeq: 1, problem, current: { version: 5, state: { gold: 9 } } };
  assert.deepEqual(sent(hear(rejected)), []);
  assert.deepEqual(sent(hear({ type: "events", documentId: "g", events: [update(4, 8)] })), []);
  const [push] = sent(hear({ type: "events", documentId: "g", events: [update(5, 9)] }));
  assert.deepEqual([push.clientSeq, push.baseVersion, push.patch], [1, 5, [{ op: "add", path: "/level", value: 2 }]]);
});

test("a refusal that comes after the events that caused it sends the write again at once", () => {
  const { feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 1, level: 2 } });
  assert.deepEqual(sent(hear({ type: "events", documentId: "g", events: [update(4, 8)] })), []);
  const problem = { type: "urn:weft:problem:version-mismatch", expected: 3, actual: 4 };
  const [push] = sent(hear({ type: "rejected", documentId: "g", clientSeq: 1, problem, current: { version: 4, state: {} } }));
  assert.deepEqual([push.clientSeq, push.baseVersion], [1, 4]);
});

test("a refusal without a newer version takes a snapshot", () => {
  const { feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  const problem = { type: "urn:weft:problem:version-mismatch", expected: 3, actual: 2 };
  const outputs = hear({ type: "rejected", documentId: "g", clientSeq: 1, problem, current: { version: 2, state: {} } });
  assert.deepEqual(sent(outputs), [{ type: "subscribe", documents: { g: {} } }]);
});

test("a write that the server will never take is given back", () => {
  const { it, feed, hear } = liveMachine({ emits: true });
  feed({ type: "write", documentId: "g", state: { gold: -1 } });
  feed({ type: "write", documentId: "g", state: { gold: -1, level: 2 } });
  const problem = { type: "urn:weft:problem:invalid-document", title: "gold is negative" };
  const outputs = hear({ type: "rejected", documentId: "g", clientSeq: 1, problem });
  assert.deepEqual(emitted(outputs, "refused"), [{ type: "refused", documentId: "g", lost: { gold: -1 }, problem }]);
  assert.deepEqual(it.manager("g").view, { gold: 1, level: 2 });
  assert.equal(sent(outputs)[0].clientSeq, 1);
});

test("a write that the server can't take now is tried later", () => {
  const { feed, hear } = liveMachine();
  const [first] = sent(feed({ type: "write", documentId: "g", state: { gold: 2 } }));
  const problem = { type: "urn:weft:problem:unavailable", retryAfterMs: 700 };
  const outputs = hear({ type: "rejected", documentId: "g", clientSeq: 1, problem });
  assert.deepEqual(outputs.at(-1), { type: "setTimer", name: "retry", delayMs: 950, documentId: "g" });
  assert.deepEqual(sent(feed({ type: "timer", name: "retry" })), [first]);
});

test("what an earlier life of this client wrote does not take off what is written now", () => {
  const { it, feed, hear } = machine();
  it.resolver = ConflictResolver.clientWins();
  feed({ type: "write", documentId: "g", state: { gold: 5 } });
  feed({ type: "connect" });
  feed({ type: "opened" });
  hear({ type: "welcome" });
  const create = { ...update(1, 0, "me", 1), diff: { jsonPatch: [{ op: "replace", path: "", value: { gold: 1 } }] } };
  hear({ type: "events", documentId: "g", events: [create] });
  const [push] = sent(hear({ type: "live", documentId: "g", version: 1 }));
  assert.deepEqual([push.clientSeq, push.baseVersion, push.op], [2, 1, "patch"]);
  assert.deepEqual(it.manager("g").view, { gold: 5 });
});

test("a repeat of what was never seen here is of an earlier life: the write takes the next number", () => {
  const { it, feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  const pushed = { type: "pushed", documentId: "g", clientSeq: 1, version: 3, repeated: true, changed: false };
  assert.deepEqual(sent(hear(pushed)).map(({ clientSeq }) => clientSeq), [2]);
  assert.deepEqual(it.manager("g").view, { gold: 2 });
});

test("a repeat whose event is on its way shows until it is here", () => {
  const { it, feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  hear({ type: "pushed", documentId: "g", clientSeq: 1, version: 4, repeated: true, changed: false });
  assert.deepEqual([it.manager("g").view, it.unsent], [{ gold: 2 }, 0]);
  hear({ type: "events", documentId: "g", events: [update(4, 2, "me", 1)] });
  assert.equal(it.manager("g").pending.length, 0);
});

test("a version that a server set back never comes to is not waited for on the next connection", () => {
  const { feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  const problem = { type: "urn:weft:problem:version-mismatch", expected: 3, actual: 9 };
  hear({ type: "rejected", documentId: "g", clientSeq: 1, problem, current: { version: 9, state: {} } });
  feed({ type: "closed" });
  feed({ type: "timer", name: "reconnect" });
  feed({ type: "opened" });
  hear({ type: "welcome" });
  hear({ type: "snapshot", documentId: "g", version: 2, state: { gold: 1 }, stateVector: {} });
  assert.equal(sent(hear({ type: "live", documentId: "g", version: 2 })).length, 1);
});

test("a server that counts otherwise is followed", () => {
  const { feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  const problem = { type: "urn:weft:problem:sequence-gap", expected: 5, actual: 1 };
  assert.equal(sent(hear({ type: "rejected", documentId: "g", clientSeq: 1, problem }))[0].clientSeq, 5);
});

test("a gap asks again from the last event that is held", () => {
  const { it, hear } = liveMachine();
  assert.deepEqual(sent(hear({ type: "events", documentId: "g", events: [update(6, 1)] })), [
    { type: "subscribe", documents: { g: { cursor: 3 } } },
  ]);
  assert.equal(it.status, "catching-up");
});

test("an event that does not apply is reported, and a snapshot taken", () => {
  const { hear } = liveMachine({ emits: true });
  const broken = { ...update(4, 1), diff: { jsonPatch: [{ op: "remove", path: "/absent" }] } };
  const outputs = hear({ type: "events", documentId: "g", events: [broken] });
  assert.equal(emitted(outputs, "error").length, 1);
  assert.deepEqual(sent(outputs), [{ type: "subscribe", documents: { g: {} } }]);
});

test("a broken connection is made again after a jittered, growing, bounded pause", () => {
  const { feed } = liveMachine({ transports: ["websocket"] });
  const delay = (outputs) => outputs.find(({ name, type }) => type === "setTimer" && name === "reconnect").delayMs;
  assert.equal(delay(feed({ type: "closed" }, 0)), 125);
  const pauses = [];
  for (let i = 0; i < 12; i++) {
    feed({ type: "timer", name: "reconnect" });
    pauses.push(delay(feed({ type: "closed" }, 0.999)));
  }
  assert.ok(pauses[0] > 400 && pauses.every((pause, i) => i === 0 || pause >= pauses[i - 1]), String(pauses));
  assert.ok(pauses.at(-1) <= RECONNECT_PAUSE_MAX_MS && pauses.at(-1) > RECONNECT_PAUSE_MAX_MS * 0.9);
});

test("a transport that never gets through makes way for the next", () => {
  const { it, feed } = machine();
  feed({ type: "connect" });
  const tried = [];
  for (let i = 0; i < 2 * TRANSPORT_TRIES_MAX; i++) {
    tried.push(it.transport);
    feed({ type: "closed" });
    feed({ type: "timer", name: "reconnect" });
  }
  assert.deepEqual(tried, ["websocket", "websocket", "sse", "sse"]);
  assert.equal(it.transport, "websocket");
});

test("a silent socket is asked twice, then given up", () => {
  const { it, feed, hear } = liveMachine();
  const beat = () => feed({ type: "timer", name: "heartbeat" });
  assert.deepEqual(sent(beat()), [{ type: "ping" }]);
  hear({ type: "pong" });
  assert.deepEqual([sent(beat()).length, sent(beat()).length], [1, 1]);
  assert.ok(beat().some(({ type }) => type === "close"));
  assert.equal(it.status, "offline");
});

test("a push without an answer gives the connection up, and goes out again on the next", () => {
  const { feed, hear } = liveMachine();
  const [push] = sent(feed({ type: "write", documentId: "g", state: { gold: 2 } }));
  assert.ok(feed({ type: "timer", name: "answer" }).some(({ type }) => type === "close"));
  feed({ type: "timer", name: "reconnect" });
  feed({ type: "opened" });
  hear({ type: "welcome" });
  assert.deepEqual(sent(hear({ type: "live", documentId: "g", version: 3 })), [push]);
});

test("a server that breaks right after its welcome is asked less and less often", () => {
  const { feed, hear } = machine({ transports: ["websocket"] });
  feed({ type: "open", documentId: "g" });
  feed({ type: "connect" });
  const delays = [];
  for (let i = 0; i < 5; i++) {
    feed({ type: "opened" });
    hear({ type: "welcome" });
    delays.push(feed({ type: "closed" }, 0).find(({ name, type }) => type === "setTimer" && name === "reconnect").delayMs);
    feed({ type: "timer", name: "reconnect" });
  }
  assert.deepEqual(delays, [125, 250, 500, 1000, 2000]);
});

test("a document that is made here is followed from its beginning", () => {
  const { feed } = liveMachine();
  const outputs = feed({ type: "write", documentId: "new", state: { name: "Go" } });
  assert.deepEqual(sent(outputs), [{ type: "subscribe", documents: { new: { cursor: 0 } } }]);
});

test("a draining server is left, and tried again no sooner than it says", () => {
  const { feed, hear } = liveMachine();
  const outputs = hear({ type: "drain", reconnectAfterMs: 4000 });
  assert.ok(outputs.some(({ type }) => type === "close"));
  assert.ok(outputs.filter(({ type }) => type === "setTimer").at(-1).delayMs >= 4000);
  assert.deepEqual(feed({ type: "timer", name: "reconnect" }).at(-1), { type: "open", transport: "websocket" });
});

test("the network's return is tried at once", () => {
  const { it, feed } = liveMachine();
  assert.ok(feed({ type: "network", online: false }).some(({ type }) => type === "close"));
  assert.equal(it.status, "offline");
  assert.deepEqual(feed({ type: "network", online: true }).at(-1), { type: "open", transport: "websocket" });
});

test("collection events come once, and a lost feed is told", () => {
  const { it, feed, hear } = liveMachine({ emits: true });
  feed({ type: "watch", position: 10 });
  const events = [{ ...update(4, 1), position: 11 }, { ...update(4, 1), position: 11 }, { ...update(5, 1), position: 12 }];
  assert.equal(emitted(hear({ type: "events", collection: true, events }), "collection").length, 2);
  assert.deepEqual(emitted(hear({ type: "resync", collection: true, reason: "far behind", position: 99 }), "collectionLost"), [
    { type: "collectionLost", position: 99 },
  ]);
  assert.equal(it.position, 99);
});

test("a document is let go only when its writes are answered", () => {
  const { it, feed, hear } = liveMachine();
  feed({ type: "write", documentId: "g", state: { gold: 2 } });
  assert.deepEqual(sent(feed({ type: "close", documentId: "g" })), []);
  hear({ type: "events", documentId: "g", events: [update(4, 2, "me", 1)] });
  assert.deepEqual(sent(feed({ type: "close", documentId: "g" })), [{ type: "unsubscribe", documents: ["g"] }]);
  assert.equal(it.manager("g"), undefined);
});

/** Made offline, then changed; the create is on the way when others' create and delete of the same document come first. */
function createdWhileOthersCreatedAndDeleted() {
  const it = new SyncMachine({ clientId: "me", transports: ["websocket"], resolver: ConflictResolver.serverWins() });
  /** @type {any[]} */
  const pushes = [];
  const feed = (input) => {
    it.handleInput(input, { nowMs: 1, random: 0.5 });
    for (let output = it.pollOutput(); output; output = it.pollOutput()) {
      if (output.type === "send" && output.message.type === "push") pushes.push(output.message);
    }
  };
  const hear = (message) => feed({ type: "message", message });
  const event = (sequenceNum, clientId, clientSeq, operation, value) =>
    hear({
      type: "events",
      documentId: "g",
      events: [{ ...update(sequenceNum, 0, clientId, clientSeq), operation, diff: { version: sequenceNum, jsonPatch: [{ op: "replace", path: "", value }], mergePatch: null } }],
    });
  feed({ type: "write", documentId: "g", state: { gold: 1 } });
  feed({ type: "write", documentId: "g", state: { gold: 1, level: 2 } });
  const connect = () => {
    feed({ type: "connect" });
    feed({ type: "opened" });
    hear({ type: "welcome" });
    hear({ type: "live", documentId: "g", version: it.manager("g").version });
  };
  connect();
  assert.deepEqual(pushes.map(({ op, clientSeq, baseVersion }) => [op, clientSeq, baseVersion]), [["create", 1, 0]]);
  event(1, "ann", 1, "create", { gold: 7 });
  event(2, "ann", 2, "delete", null);
  return { it, feed, hear, event, pushes, connect };
}

test("a create that others' create and delete overtook takes off itself and not the write behind it", () => {
  const { it, hear, event, pushes } = createdWhileOthersCreatedAndDeleted();
  // The document was absent when the create arrived: the server took it.
  event(3, "me", 1, "create", { gold: 1 });
  hear({ type: "pushed", documentId: "g", clientSeq: 1, version: 3, changed: true, repeated: false });
  assert.deepEqual(it.manager("g").view, { gold: 1, level: 2 });
  assert.deepEqual([pushes.at(-1).op, pushes.at(-1).clientSeq, pushes.at(-1).baseVersion], ["patch", 2, 3]);
});

test("a create that the server could not decide about is as open as one without an answer", () => {
  const { it, hear, event } = createdWhileOthersCreatedAndDeleted();
  event(3, "ann", 3, "create", { gold: 8 });
  // Of a kind that this client does not know: the status says enough.
  hear({ type: "rejected", documentId: "g", clientSeq: 1, problem: { type: "urn:weft:problem:overslept", status: 503 } });
  event(4, "ann", 4, "delete", null);
  // It was taken all the same.
  event(5, "me", 1, "create", { gold: 1 });
  assert.deepEqual(it.manager("g").view, { gold: 1, level: 2 });
  assert.deepEqual(it.manager("g").pending.length, 1);
});

test("the same over a restart: whether the create was taken is not known until the server has said so", () => {
  const { it, event: _, ...first } = createdWhileOthersCreatedAndDeleted();
  const record = structuredClone(it.manager("g").toRecord());
  const again = new SyncMachine({ clientId: "me", transports: ["websocket"], resolver: ConflictResolver.serverWins() });
  again.handleInput({ type: "open", documentId: "g", record }, { nowMs: 1, random: 0.5 });
  const manager = again.manager("g");
  manager.onEvent({ ...update(3, 0, "me", 1), operation: "create", diff: { version: 3, jsonPatch: [{ op: "replace", path: "", value: { gold: 1 } }], mergePatch: null } });
  assert.deepEqual(manager.view, { gold: 1, level: 2 });
  assert.equal(first.pushes.length, 1);
});

test("a create that was refused falls away as the resolver said, and the write behind it goes out", () => {
  const { it, hear, event, pushes } = createdWhileOthersCreatedAndDeleted();
  event(3, "ann", 3, "create", { gold: 9 });
  hear({ type: "rejected", documentId: "g", clientSeq: 1, problem: { type: "urn:weft:problem:already-exists", actual: 1 }, current: { version: 3, state: { gold: 9 } } });
  const manager = it.manager("g");
  assert.equal(manager.pending.length <= 1, true);
  assert.ok(pushes.length === 1 || pushes.at(-1).baseVersion === 3);
  assert.equal(manager.view.gold, 9);
});

test("presence is shown while it is live, again after a reconnect, and others go with the connection", () => {
  const { it, feed, hear } = liveMachine({ emits: true });
  assert.deepEqual(sent(feed({ type: "show", documentId: "g", data: { field: "gold" } })), [{ type: "presence", documentId: "g", data: { field: "gold" } }]);
  assert.deepEqual(sent(feed({ type: "show", documentId: "g", data: { field: "gold" } })), [], "the same is not told again");
  const told = hear({ type: "presence", documentId: "g", clientId: "ann", data: { field: "name" } });
  assert.deepEqual(emitted(told, "presence"), [{ type: "presence", documentId: "g", clientId: "ann", data: { field: "name" } }]);
  assert.deepEqual([...it.others("g")], [["ann", { field: "name" }]]);
  const cut = feed({ type: "closed" });
  assert.deepEqual(emitted(cut, "presence"), [{ type: "presence", documentId: "g", clientId: "ann", data: null }]);
  assert.equal(it.others("g").size, 0);
  assert.deepEqual(sent(feed({ type: "show", documentId: "g", data: { field: "level" } })), []);
  feed({ type: "timer", name: "reconnect" });
  feed({ type: "opened" });
  hear({ type: "welcome" });
  const live = sent(hear({ type: "live", documentId: "g", version: 3 }));
  assert.deepEqual(live, [{ type: "presence", documentId: "g", data: { field: "level" } }]);
});

test("a token is shown with the hello, and a new one at once", () => {
  const it = new SyncMachine({ clientId: "ann/c", transports: ["websocket"], resolver: ConflictResolver.threeWay(), token: "one" });
  const feed = (input) => {
    it.handleInput(input, { nowMs: 1, random: 0.5 });
    const outputs = [];
    for (let output = it.pollOutput(); output; output = it.pollOutput()) outputs.push(output);
    return sent(outputs);
  };
  feed({ type: "connect" });
  assert.deepEqual(feed({ type: "opened" }), [{ type: "hello", clientId: "ann/c", token: "one", documents: {} }]);
  feed({ type: "message", message: { type: "welcome", expiresAt: 5 } });
  assert.deepEqual(feed({ type: "token", token: "two" }), [{ type: "authenticate", token: "two" }]);
  feed({ type: "message", message: { type: "authenticated" } });
  // The next connection begins with the new one.
  feed({ type: "closed", code: 4401 });
  feed({ type: "timer", name: "reconnect" });
  assert.deepEqual(feed({ type: "opened" }), [{ type: "hello", clientId: "ann/c", token: "two", documents: {} }]);
});
