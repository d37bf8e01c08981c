/** Where a client says that it goes on: after a start, a reload, a reconnect, a gap, and what places it takes for ones. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { SyncMachine } from "../src/sync-machine.js";
import { openLongPoll, openServerSentEvents } from "../src/transports/http.js";

function machine() {
  const it = new SyncMachine({ clientId: "me", transports: ["websocket"], resolver: ConflictResolver.threeWay() });
  const feed = (input) => {
    it.handleInput(input, { nowMs: 1, random: 0 });
    const sent = [];
    for (let output = it.pollOutput(); output; output = it.pollOutput()) if (output.type === "send") sent.push(output.message);
    return sent;
  };
  const hear = (message) => feed({ type: "message", message });
  /** Connects, and gives what the hello asks for. */
  const hello = () => {
    feed({ type: "connect" });
    feed({ type: "timer", name: "reconnect" });
    const [{ documents, collection }] = feed({ type: "opened" });
    hear({ type: "welcome" });
    return collection ? { documents, collection } : documents;
  };
  return { it, feed, hear, hello };
}

const event = (sequenceNum, timestamp = 1000 + sequenceNum) => ({
  documentId: "g",
  sequenceNum,
  timestamp,
  position: 100 + sequenceNum,
  operation: "update",
  clientId: "ann",
  clientSeq: sequenceNum,
  vectorClock: { ann: sequenceNum },
  diff: { jsonPatch: [{ op: sequenceNum === 1 ? "replace" : "add", path: sequenceNum === 1 ? "" : "/n", value: sequenceNum === 1 ? {} : sequenceNum }] },
});
const events = (...list) => ({ type: "events", documentId: "g", events: list });
const snapshot = (version, timestamp) => ({ type: "snapshot", documentId: "g", version, state: {}, stateVector: {}, ...(timestamp && { timestamp }) });

test("a document that nothing is held of is asked for as it is; one that is made here, from its beginning", () => {
  const { feed, hello } = machine();
  feed({ type: "open", documentId: "g" });
  feed({ type: "write", documentId: "new", state: {} });
  assert.deepEqual(hello(), { g: {}, new: { cursor: 0 } });
});

test("after a reload it goes on after the event that the record ends with", () => {
  const first = machine();
  first.feed({ type: "open", documentId: "g" });
  first.hello();
  first.hear(events(event(1), event(2)));
  const record = JSON.parse(JSON.stringify(first.it.manager("g").toRecord()));
  const next = machine();
  next.feed({ type: "open", documentId: "g", record });
  assert.deepEqual(next.hello(), { g: { cursor: 2, timestamp: 1002 } });
});

test("a record of before events were named goes on by its number alone, and names the next one", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g", record: { documentId: "g", version: 1, state: {}, stateVector: {}, pending: [] } });
  assert.deepEqual(hello(), { g: { cursor: 1 } });
  hear(events(event(2)));
  feed({ type: "closed" });
  assert.deepEqual(hello(), { g: { cursor: 2, timestamp: 1002 } });
});

test("after a reconnect it goes on after the last event, whatever else came", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g" });
  hello();
  hear(snapshot(1, 1001));
  hear(events(event(2), event(3)));
  // Known, from beyond a gap, and of another document: none of them moves it.
  hear(events(event(2, 7), event(9)));
  hear({ type: "events", documentId: "h", events: [{ ...event(4), documentId: "h" }] });
  feed({ type: "closed" });
  assert.deepEqual(hello(), { g: { cursor: 3, timestamp: 1003 } });
});

test("after a gap it asks from the last event that it has; after one that does not apply, for the state", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g" });
  hello();
  hear(events(event(1)));
  assert.deepEqual(hear(events(event(3))), [{ type: "subscribe", documents: { g: { cursor: 1, timestamp: 1001 } } }]);
  const broken = { ...event(2), diff: { jsonPatch: [{ op: "remove", path: "/absent" }] } };
  assert.deepEqual(hear(events(broken)), [{ type: "subscribe", documents: { g: {} } }]);
});

test("a snapshot without a time is not taken for the event before it", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g" });
  hello();
  hear(events(event(1)));
  hear(snapshot(5));
  feed({ type: "closed" });
  assert.deepEqual(hello(), { g: { cursor: 5 } });
});

test("a snapshot takes it back where the server was set back", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g" });
  hello();
  hear(events(event(1), event(2), event(3)));
  hear({ type: "resync", documentId: "g", reason: "cursor-unknown" });
  hear(snapshot(1, 999));
  feed({ type: "closed" });
  assert.deepEqual(hello(), { g: { cursor: 1, timestamp: 999 } });
});

test("a document that was deleted goes on after its delete", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "open", documentId: "g" });
  hello();
  hear(events(event(1), { ...event(2), operation: "delete", diff: { jsonPatch: [{ op: "replace", path: "", value: null }] } }));
  feed({ type: "closed" });
  assert.deepEqual(hello(), { g: { cursor: 2, timestamp: 1002 } });
});

test("the collection goes on after its last event, and unnamed after it was moved", () => {
  const { feed, hear, hello } = machine();
  feed({ type: "watch", position: 50 });
  assert.deepEqual(hello().collection, { cursor: 50 });
  hear({ type: "events", collection: true, events: [event(1)] });
  feed({ type: "closed" });
  assert.deepEqual(hello().collection, { cursor: 101, timestamp: 1001 });
  hear({ type: "resync", collection: true, reason: "cursor-unknown", position: 60 });
  feed({ type: "closed" });
  assert.deepEqual(hello().collection, { cursor: 60 });
});

/** What a link over HTTP asks for to follow `g` from somewhere; `answers` are given in their order. */
async function asked(open, from, answers) {
  const paths = [];
  let opened;
  await new Promise((resolve) => {
    const fetch = async (url, { signal }) => {
      if (url.pathname === "/livez") return new Response("");
      paths.push(url.pathname + url.search);
      const answer = answers.shift();
      if (answer) return answer();
      resolve();
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    };
    const start = () => queueMicrotask(() => opened.send({ type: "hello", clientId: "me", documents: { g: from } }));
    opened = open("http://server.test/", { opened: start, message: () => {}, closed: resolve }, { fetch });
  });
  opened.close();
  return paths;
}

const problem = (kind, status) => () => Response.json({ type: `urn:weft:problem:${kind}`, title: kind, status }, { status });
const page = (list, cursor) => () => Response.json({ events: list, cursor });

test("in an address the place is a number, an @ and the time, and only a number where the time is not known", async () => {
  assert.deepEqual(await asked(openServerSentEvents, { cursor: 12, timestamp: 1767225600000 }, []), ["/events/g?after=12@1767225600000"]);
  assert.deepEqual(await asked(openServerSentEvents, { cursor: 12 }, []), ["/events/g?after=12"]);
  assert.deepEqual(await asked(openServerSentEvents, { cursor: 0 }, []), ["/events/g?after=0"]);
  assert.deepEqual(await asked(openServerSentEvents, {}, []), ["/events/g"]);
  const [path] = await asked(openLongPoll, { cursor: 12, timestamp: 5 }, []);
  assert.match(path, /\?after=12@5&/);
});

test("a poll goes on after the last event of each page, and stays where it was without one", async () => {
  const places = async (from, answers) => (await asked(openLongPoll, from, answers)).map((path) => /after=([^&]*)/.exec(path)?.[1] ?? path);
  assert.deepEqual(await places({ cursor: 1, timestamp: 1001 }, [page([event(2)], 2), page([], 2)]), ["1@1001", "2@1002", "2@1002"]);
  // An answer of a server that knows no times, and one that has moved without an event.
  assert.deepEqual(await places({ cursor: 1, timestamp: 1001 }, [page([{ ...event(2), timestamp: undefined }], 2), page([], 3)]), ["1@1001", "2", "3"]);
  // The server has another history: the state as it is, and on from there.
  const state = () => Response.json({ snapshot: { version: 7, state: {}, stateVector: {}, timestamp: 70 }, events: [], cursor: 7 });
  assert.deepEqual(await places({ cursor: 12, timestamp: 5 }, [problem("history-compacted", 410), state]), ["12@5", "/api/sync/g", "7@70"]);
  // A place that the server does not take breaks the link, rather than going on from somewhere else.
  assert.deepEqual(await places({ cursor: 12, timestamp: 5 }, [problem("invalid-request", 400)]), ["12@5"]);
});
