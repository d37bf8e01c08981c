import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { merge } from "../src/merge.js";

const never = () => assert.fail("nothing clashes here");

/** What three states merge to without a clash. */
const check = (base, local, remote, expect) => assert.deepEqual(merge(base, local, remote, never), expect);

test("edits of different fields both stand", () => {
  check({ gold: 1, level: 1 }, { gold: 2, level: 1 }, { gold: 1, level: 3 }, { gold: 2, level: 3 });
  check({ a: { x: 1, y: 1 } }, { a: { x: 2, y: 1 } }, { a: { x: 1, y: 2 } }, { a: { x: 2, y: 2 } });
  check({ a: 1, b: 2 }, { b: 2 }, { a: 1, b: 2, c: 3 }, { b: 2, c: 3 });
});

test("the same edit on both sides is no clash", () => {
  check({ gold: 1 }, { gold: 2 }, { gold: 2 }, { gold: 2 });
  check(null, { name: "Go" }, { name: "Go" }, { name: "Go" });
  check({ name: "Go" }, null, null, null);
});

test("texts and lists merge where the edits lie apart", () => {
  check("one two three", "ONE two three", "one two THREE", "ONE two THREE");
  check("a😀b", "x😀b", "a😁b", "x😁b");
  check(["ann"], ["ann", "bob"], ["ann", "cy"], ["ann", "cy", "bob"]);
  check(["ann", "bob", "cy"], ["bob", "cy"], ["ann", "bob", "cy", "dan"], ["bob", "cy", "dan"]);
});

const concurrent = {
  documentId: "g",
  base: { gold: 10, level: 1, notes: "n" },
  local: { gold: 20, level: 2, notes: "n" },
  remote: { gold: 30, level: 1, notes: "m" },
  localTimeMs: 2,
  remoteTimeMs: 1,
};
const clash = { path: "/gold", base: 10, local: 20, remote: 30 };

test("each strategy decides about a clash in its way, and tells", () => {
  const { serverWins, clientWins, lastWriterWins, threeWay, custom } = ConflictResolver;
  const of = (resolver, change = {}) => resolver.resolve({ ...concurrent, ...change });
  assert.deepEqual(of(serverWins()), { value: concurrent.remote, conflicts: [{ ...clash, kept: "remote" }] });
  assert.deepEqual(of(clientWins()), { value: { gold: 20, level: 2, notes: "m" }, conflicts: [{ ...clash, kept: "local" }] });
  assert.equal(of(lastWriterWins()).value.gold, 20);
  assert.equal(of(lastWriterWins(), { remoteTimeMs: 2 }).value.gold, 30);
  assert.deepEqual(of(threeWay()), { value: { gold: 30, level: 2, notes: "m" }, conflicts: [{ ...clash, kept: "remote" }] });
  const higher = threeWay(({ local, remote }) => ({ value: Math.max(local, remote) }));
  assert.deepEqual(of(higher), { value: { gold: 30, level: 2, notes: "m" }, conflicts: [{ ...clash, kept: "merged" }] });
  assert.deepEqual(of(custom(() => ({ value: { gone: true }, conflicts: [] }))), { value: { gone: true }, conflicts: [] });
});

test("without a clash no strategy loses anything", () => {
  const apart = { ...concurrent, remote: { gold: 10, level: 1, notes: "m" } };
  for (const name of ["serverWins", "clientWins", "lastWriterWins", "threeWay"]) {
    assert.deepEqual(ConflictResolver[name]().resolve(apart), { value: { gold: 20, level: 2, notes: "m" }, conflicts: [] }, name);
  }
});

test("an edit of a document that was deleted is a clash of the whole", () => {
  const deleted = { ...concurrent, remote: null };
  assert.equal(ConflictResolver.threeWay().resolve(deleted).value, null);
  const { value, conflicts } = ConflictResolver.clientWins().resolve(deleted);
  assert.deepEqual(value, concurrent.local);
  assert.deepEqual(conflicts, [{ path: "", base: concurrent.base, local: concurrent.local, remote: null, kept: "local" }]);
});

test("a field named __proto__ merges like any other", () => {
  const side = (text) => JSON.parse(text);
  const merged = merge(side('{"__proto__":1,"a":1}'), side('{"__proto__":2,"a":1}'), side('{"__proto__":1,"a":2}'), never);
  assert.equal(JSON.stringify(merged), '{"__proto__":2,"a":2}');
});
