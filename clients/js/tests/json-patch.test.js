import assert from "node:assert/strict";
import { test } from "node:test";
import { applyPatch, diff, formatPointer, parsePointer, PatchError, valueAt } from "../src/json-patch.js";
import { randomFrom, SEED } from "./random.js";

/** What a patch makes of a value; a string as expectation is a part of the error's message. */
function check(value, patch, expect) {
  const before = structuredClone(value);
  if (typeof expect === "string") {
    assert.throws(() => applyPatch(value, patch), (error) => error instanceof PatchError && error.message.includes(expect));
  } else {
    assert.deepEqual(applyPatch(value, patch), expect[0]);
  }
  assert.deepEqual(value, before, "the value itself is untouched");
}

test("RFC 6902, appendix A", () => {
  check({ foo: "bar" }, [{ op: "add", path: "/baz", value: "qux" }], [{ baz: "qux", foo: "bar" }]);
  check({ foo: ["bar", "baz"] }, [{ op: "add", path: "/foo/1", value: "qux" }], [{ foo: ["bar", "qux", "baz"] }]);
  check({ baz: "qux", foo: "bar" }, [{ op: "remove", path: "/baz" }], [{ foo: "bar" }]);
  check({ foo: ["bar", "qux", "baz"] }, [{ op: "remove", path: "/foo/1" }], [{ foo: ["bar", "baz"] }]);
  check({ baz: "qux", foo: "bar" }, [{ op: "replace", path: "/baz", value: "boo" }], [{ baz: "boo", foo: "bar" }]);
  check(
    { foo: { bar: "baz", waldo: "fred" }, qux: { corge: "grault" } },
    [{ op: "move", from: "/foo/waldo", path: "/qux/thud" }],
    [{ foo: { bar: "baz" }, qux: { corge: "grault", thud: "fred" } }],
  );
  check({ foo: ["all", "grass", "cows", "eat"] }, [{ op: "move", from: "/foo/1", path: "/foo/3" }], [{ foo: ["all", "cows", "eat", "grass"] }]);
  check({ baz: "qux", foo: ["a", 2, "c"] }, [{ op: "test", path: "/baz", value: "qux" }, { op: "test", path: "/foo/1", value: 2 }], [{ baz: "qux", foo: ["a", 2, "c"] }]);
  check({ baz: "qux" }, [{ op: "test", path: "/baz", value: "bar" }], "has another value");
  check({ foo: "bar" }, [{ op: "add", path: "/child", value: { grandchild: {} } }], [{ foo: "bar", child: { grandchild: {} } }]);
  check({ foo: "bar" }, [{ op: "add", path: "/baz", value: "qux", xyz: 123 }], [{ foo: "bar", baz: "qux" }]);
  check({ foo: "bar" }, [{ op: "add", path: "/baz/bat", value: "qux" }], "nothing at");
  check({ "/": 9, "~1": 10 }, [{ op: "test", path: "/~01", value: 10 }], [{ "/": 9, "~1": 10 }]);
  check({ "/": 9, "~1": 10 }, [{ op: "test", path: "/~01", value: "10" }], "has another value");
  check({ foo: ["bar"] }, [{ op: "add", path: "/foo/-", value: ["abc", "def"] }], [{ foo: ["bar", ["abc", "def"]] }]);
});

test("the root can be replaced, tested and removed", () => {
  check(null, [{ op: "replace", path: "", value: { name: "Go" } }], [{ name: "Go" }]);
  check({ name: "Go" }, [{ op: "replace", path: "", value: null }], [null]);
  check({ name: "Go" }, [{ op: "test", path: "", value: { name: "Go" } }, { op: "remove", path: "" }], [null]);
});

test("bad patches are refused whole and say what was wrong", () => {
  check([1, 2], [{ op: "add", path: "/3", value: 3 }], "no place in 2 items");
  check([1, 2], [{ op: "add", path: "/01", value: 3 }], "no place");
  check([1, 2], [{ op: "remove", path: "/-" }], "nothing at");
  check([1, 2], [{ op: "replace", path: "/2", value: 0 }], "nothing at");
  check({ a: { b: 1 } }, [{ op: "move", from: "/a", path: "/a/b" }], "into itself");
  check({ a: 1 }, [{ op: "add", path: "/a/b", value: 1 }], "neither object nor array");
  check({ a: 1 }, [{ op: "add", path: "a", value: 1 }], "does not start with");
  check({ a: 1 }, [{ op: "add", path: "/~2", value: 1 }], "neither");
  check({ a: 1 }, [{ op: "add", path: "/b" }], "without a value");
  check({ a: 1 }, [{ op: "merge", path: "/b", value: 1 }], "unknown op");
  check({ a: 1 }, [{ op: "replace", path: "/a", value: 2 }, { op: "remove", path: "/b" }], "operation 1: nothing at");
  check({ a: 1 }, [null], "an operation is an object");
  check({ a: 1 }, "nonsense", "array of operations");
  check({ a: 1 }, [{ op: "test", path: "/toString", value: 1 }], "nothing at");
});

test("a field named __proto__ is a field", () => {
  const patched = applyPatch({}, [{ op: "add", path: "/__proto__", value: { polluted: true } }]);
  assert.equal({}.polluted, undefined);
  assert.equal(patched.polluted, undefined);
  assert.deepEqual(Object.keys(patched), ["__proto__"]);
  check({}, [{ op: "add", path: "/__proto__/polluted", value: true }], "nothing at");
  assert.deepEqual(applyPatch(patched, [{ op: "remove", path: "/__proto__" }]), {});
});

test("pointers go there and back", () => {
  for (const tokens of [[], [""], ["a/b", "m~n", "~1"], ["0", "-"]]) assert.deepEqual(parsePointer(formatPointer(tokens)), tokens);
  assert.equal(valueAt({ a: [{ b: 7 }] }, "/a/0/b"), 7);
  assert.equal(valueAt({ a: 1 }, "/a/b"), undefined);
});

test("a diff leads from before to after, for any two values", () => {
  const random = randomFrom(SEED);
  for (let round = 0; round < 3000; round++) {
    const before = anyJson(random, 4);
    const after = random() < 0.5 ? mutate(random, before) : anyJson(random, 4);
    const patch = diff(before, after);
    assert.deepEqual(applyPatch(before, patch), after, `WEFT_SEED=${SEED}, round ${round}`);
    assert.deepEqual(diff(after, structuredClone(after)), []);
  }
});

test("a diff touches only what changed", () => {
  assert.deepEqual(diff({ gold: 1, name: "a" }, { gold: 2, name: "a" }), [{ op: "replace", path: "/gold", value: 2 }]);
  assert.deepEqual(diff(["a", "b"], ["a", "x", "b"]), [{ op: "add", path: "/1", value: "x" }]);
  assert.deepEqual(diff(["a", "x", "b"], ["a", "b"]), [{ op: "remove", path: "/1" }]);
  assert.deepEqual(diff([{ hp: 1 }, 2], [{ hp: 3 }, 2]), [{ op: "replace", path: "/0/hp", value: 3 }]);
});

function anyJson(random, depth) {
  const kind = Math.floor(random() * (depth > 0 ? 7 : 5));
  if (kind === 0) return null;
  if (kind === 1) return random() < 0.5;
  if (kind === 2) return Math.floor(random() * 5);
  if (kind <= 4) return ["", "a", "~", "/", "é😀"][Math.floor(random() * 5)];
  const length = Math.floor(random() * 5);
  if (kind === 5) return Array.from({ length }, () => anyJson(random, depth - 1));
  return Object.fromEntries(Array.from({ length }, () => [["a", "b", "~1", "x/y", "", "__proto__"][Math.floor(random() * 6)], anyJson(random, depth - 1)]));
}

function mutate(random, value) {
  if (random() < 0.2) return anyJson(random, 2);
  if (Array.isArray(value)) {
    const at = Math.floor(random() * (value.length + 1));
    return random() < 0.5 ? value.toSpliced(at, random() < 0.5 ? 1 : 0, anyJson(random, 1)) : value.map((item) => (random() < 0.3 ? mutate(random, item) : item));
  }
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).filter(() => random() < 0.9).map(([key, item]) => [key, random() < 0.3 ? mutate(random, item) : item]));
  }
  return anyJson(random, 1);
}
