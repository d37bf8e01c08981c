import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { diff } from "../src/json-patch.js";
import { StateManager } from "../src/state-manager.js";

/** The event that leads from one state to another. */
function event(sequenceNum, before, after, clientId, clientSeq) {
  return {
    id: `g@${sequenceNum}`,
    documentId: "g",
    timestamp: 1000 + sequenceNum,
    sequenceNum,
    position: sequenceNum,
    operation: before === null ? "create" : after === null ? "delete" : "update",
    diff: { version: sequenceNum, jsonPatch: diff(before, after), mergePatch: null },
    vectorClock: { [clientId]: clientSeq },
    clientId,
    clientSeq,
  };
}

function manager(resolver) {
  const state = new StateManager({ documentId: "g", clientId: "me", resolver });
  state.onEvent(event(1, null, { gold: 1, name: "Go" }, "ann", 1));
  return state;
}

test("events are taken in order, each once", () => {
  const state = manager();
  assert.equal(state.onEvent(event(3, {}, { gold: 3 }, "ann", 3)).outcome, "gap");
  assert.equal(state.onEvent(event(1, null, { gold: 9 }, "ann", 1)).outcome, "known");
  assert.deepEqual([state.version, state.state], [1, { gold: 1, name: "Go" }]);
  assert.equal(state.onEvent(event(2, { gold: 1, name: "Go" }, { gold: 2, name: "Go" }, "ann", 2)).outcome, "applied");
  assert.deepEqual([state.version, state.state.gold, { ...state.stateVector }], [2, 2, { ann: 2 }]);
});

test("an event that does not apply changes nothing", () => {
  const state = manager();
  assert.throws(() => state.onEvent({ ...event(2, null, {}, "ann", 2), diff: { jsonPatch: [{ op: "remove", path: "/absent" }] } }));
  assert.deepEqual([state.version, { ...state.stateVector }], [1, { ann: 1 }]);
});

test("a write shows at once, and is confirmed by its own event", () => {
  const state = manager();
  assert.ok(state.write({ gold: 5, name: "Go" }, 1));
  assert.deepEqual([state.view.gold, state.state.gold, state.unsent], [5, 1, 1]);
  assert.deepEqual(state.nextPush(), {
    type: "push",
    documentId: "g",
    clientSeq: 1,
    baseVersion: 1,
    op: "patch",
    patch: [{ op: "replace", path: "/gold", value: 5 }],
  });
  state.onPushed({ clientSeq: 1, version: 2, changed: true });
  assert.deepEqual([state.unsent, state.pending.length, state.nextPush()], [0, 1, undefined]);
  state.onEvent(event(2, state.state, state.view, "me", 1));
  assert.deepEqual([state.pending.length, state.state.gold, state.nextSeq], [0, 5, 2]);
});

test("the event of a write may come before its answer", () => {
  const state = manager();
  state.write({ gold: 5, name: "Go" }, 1);
  state.write({ gold: 6, name: "Go" }, 2);
  state.onEvent(event(2, state.state, { gold: 5, name: "Go" }, "me", 1));
  state.onPushed({ clientSeq: 1, version: 2, changed: true });
  assert.deepEqual([state.pending.length, state.storedAt, state.nextPush().clientSeq, state.nextPush().baseVersion], [1, undefined, 2, 2]);
});

test("others' events move below the own writes", () => {
  const state = manager();
  state.write({ gold: 5, name: "Go" }, 1);
  const { conflicts } = state.onEvent(event(2, state.state, { gold: 1, name: "Chess" }, "ann", 2));
  assert.deepEqual([conflicts, state.view], [[], { gold: 5, name: "Chess" }]);
  assert.deepEqual([state.nextPush().baseVersion, state.nextPush().patch], [2, [{ op: "replace", path: "/gold", value: 5 }]]);
});

test("a clash is told, and a write with nothing left to say falls away", () => {
  const state = manager(ConflictResolver.serverWins());
  state.write({ gold: 5, name: "Go" }, 1);
  state.write({ gold: 5, name: "Shogi" }, 2);
  const { conflicts } = state.onEvent(event(2, state.state, { gold: 7, name: "Go" }, "ann", 2));
  assert.deepEqual(conflicts, [{ path: "/gold", base: 1, local: 5, remote: 7, kept: "remote" }]);
  assert.deepEqual([state.view, state.pending.length], [{ gold: 7, name: "Shogi" }, 1]);
  assert.equal(state.nextPush().clientSeq, 1, "the number of the fallen write is taken by the next");
});

test("a snapshot that contains own writes takes them off", () => {
  const state = manager();
  state.write({ gold: 5, name: "Go" }, 1);
  state.write({ gold: 5, name: "Go", level: 2 }, 2);
  state.onSnapshot({ version: 9, state: { gold: 5, name: "Chess" }, stateVector: { ann: 7, me: 1 } });
  assert.deepEqual([state.version, state.pending.length, state.view], [9, 1, { gold: 5, name: "Chess", level: 2 }]);
  assert.equal(state.nextPush().clientSeq, 2);
});

test("creation and deletion are writes like others", () => {
  const state = new StateManager({ documentId: "g", clientId: "me" });
  assert.equal(state.write(null, 1), false);
  state.write({ name: "Go" }, 1);
  assert.deepEqual(state.nextPush(), { type: "push", documentId: "g", clientSeq: 1, baseVersion: 0, op: "create", state: { name: "Go" } });
  state.onEvent(event(1, null, { name: "Go" }, "me", 1));
  state.write(null, 2);
  assert.equal(state.view, null);
  assert.equal(state.nextPush().op, "delete");
});

test("a refused write falls away, and those after it stay as far as they stand", () => {
  const state = manager();
  state.write({ gold: -1, name: "Go" }, 1);
  state.write({ gold: -1, name: "Shogi" }, 2);
  assert.deepEqual(state.holdOldest({}, { isDecided: true }).after, { gold: -1, name: "Go" });
  assert.deepEqual([state.view, state.nextPush().clientSeq], [{ gold: 1, name: "Shogi" }, 1]);
});

test("a write that changed nothing on the server is done", () => {
  const state = manager();
  state.write({ gold: 5, name: "Go" }, 1);
  state.onPushed({ clientSeq: 1, version: 1, changed: false });
  assert.deepEqual([state.pending.length, state.nextSeq], [0, 2]);
});

test("beyond the bound an edit joins the last write", () => {
  const state = manager();
  for (let gold = 2; gold < StateManager.PENDING_WRITES_MAX + 50; gold++) state.write({ gold, name: "Go" }, gold);
  assert.equal(state.pending.length, StateManager.PENDING_WRITES_MAX);
  assert.equal(state.view.gold, StateManager.PENDING_WRITES_MAX + 49);
});

test("beyond the bound of bytes an edit joins the last write", () => {
  const state = manager();
  const note = "x".repeat(StateManager.PENDING_BYTES_MAX / 4);
  for (let gold = 2; gold < 12; gold++) state.write({ gold, note }, gold);
  assert.deepEqual([state.pending.length, state.view.gold], [3, 11]);
  // One that is larger than all may wait as well; the one that may be with the server keeps its number.
  state.nextPush();
  state.write({ gold: 12, note: note.repeat(5) }, 12);
  state.write({ gold: 13, note: note.repeat(5) }, 13);
  assert.deepEqual([state.pending.length, state.pending[0].isSent, state.view.gold], [3, true, 13]);
  assert.equal(state.pending[0].after.gold, 2);
});

test("a record brings everything back", () => {
  const state = manager();
  state.write({ gold: 5, name: "Go" }, 1);
  const again = new StateManager({ documentId: "g", clientId: "me" });
  again.restore(JSON.parse(JSON.stringify(state.toRecord())));
  assert.deepEqual(again.nextPush(), state.nextPush());
  assert.deepEqual([again.view, again.version], [state.view, state.version]);
});

test("a client id is any string", () => {
  const state = manager();
  state.updateStateVector("__proto__", 3);
  state.updateStateVector("a.b", 2);
  state.updateStateVector("a.b", 1);
  assert.deepEqual(Object.entries(state.toRecord().stateVector), [["ann", 1], ["__proto__", 3], ["a.b", 2]]);
});
