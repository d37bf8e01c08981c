import assert from "node:assert/strict";
import test from "node:test";
import { difference } from "../../web/editor/diff.js";
import { idBefore, positionBehind, Undo } from "../../web/editor/undo.js";
import { Replica } from "../../web/sync/replica.js";

/** @param {string} before @param {string} after with `|` where the caret is */
function check(before, after, at, deleted, inserted) {
  const caret = after.indexOf("|");
  const edit = difference(before, after.replace("|", ""), caret);
  assert.deepEqual(edit, { at, deleted, inserted });
}

test("the caret tells which of equal letters was typed", () => {
  check("aaa", "aa|aa", 1, 0, "a");
  check("aaa", "aaaa|", 3, 0, "a");
  check("aaa", "a|a", 1, 1, "");
  check("abc", "aXYc|", 1, 1, "XY");
  check("", "new|", 0, 0, "new");
  check("gone", "|", 0, 4, "");
  assert.equal(difference("same", "same", 2), undefined);
});

test("characters of two code units are never cut", () => {
  check("😀", "😁|", 0, 2, "😁");
  check("a😀", "a😀😁|", 3, 0, "😁");
  check("😀😀", "😀|", 2, 2, "");
  // Same second half, another first one.
  check("\u{1f600}", "\u{1fa00}|", 0, 2, "\u{1fa00}");
});

/** Two replicas that exchange what they type at once. */
function pair() {
  const replicas = [new Replica("a", { sid: 70_001 }), new Replica("b", { sid: 70_002 })];
  const give = (/** @type {number} */ from) => {
    const { unsent } = replicas[from];
    const other = replicas[1 - from];
    for (const entry of unsent.splice(0)) other.model.applyPatch(patchOf(entry.bytes));
  };
  return { replicas, give };
}
const { Patch } = await import("../../web/vendor/json-joy.js");
const patchOf = (/** @type {Uint8Array} */ bytes) => Patch.fromBinary(bytes);

test("undo takes back what was done here, and leaves what others wrote", () => {
  const { replicas, give } = pair();
  const [a, b] = replicas;
  const mine = new Undo(a, "text");
  mine.edit({ at: 0, deleted: 0, inserted: "warp\n" });
  give(0);
  const theirs = new Undo(b, "text");
  theirs.edit({ at: 2, deleted: 0, inserted: "--" });
  give(1);
  assert.equal(a.text("text"), "wa--rp\n");
  assert.equal(mine.undo(), 0);
  assert.equal(a.text("text"), "--");
  mine.redo();
  assert.equal(a.text("text").replaceAll("-", ""), "warp\n");
  mine.undo();
  give(0);
  assert.equal(b.text("text"), "--");
  assert.equal(theirs.undo(), 0);
  assert.equal(b.text("text"), "");
  assert.equal(theirs.undo(), undefined);
});

test("undo brings back what was deleted, in its place, after others wrote around it", () => {
  const { replicas, give } = pair();
  const [a, b] = replicas;
  const mine = new Undo(a, "text");
  mine.edit({ at: 0, deleted: 0, inserted: "one two three\n" });
  give(0);
  mine.edit({ at: 3, deleted: 4, inserted: "\n" });
  assert.equal(a.text("text"), "one\n three\n");
  give(0);
  new Undo(b, "text").edit({ at: 0, deleted: 0, inserted: "zero " });
  give(1);
  mine.undo();
  assert.equal(a.text("text"), "zero one two three\n");
  mine.redo();
  assert.equal(a.text("text"), "zero one\n three\n");
});

test("what is pasted is cut into patches that are taken, and taken back at once", () => {
  const replica = new Replica("ann");
  const undo = new Undo(replica, "text");
  undo.edit({ at: 0, deleted: 0, inserted: "[]" });
  // Half of a character would stand at the cut.
  const pasted = "x" + "\u{1f642}".repeat(1_500_000) + "\n"; // A line is a step of its own.
  const sent = replica.unsent.length;
  undo.edit({ at: 1, deleted: 0, inserted: pasted });
  assert.equal(replica.text("text"), `[${pasted}]`);
  const lengths = replica.unsent.slice(sent).map((entry) => entry.bytes.length);
  assert.ok(lengths.length > 1 && Math.max(...lengths) < 4 << 20, `${lengths}`);
  assert.equal(lengths.reduce((sum, length) => sum + length) - 4 * 1_500_000 < 1000, true, `${lengths}`);
  undo.undo();
  assert.equal(replica.text("text"), "[]");
  undo.redo();
  assert.equal(replica.text("text"), `[${pasted}]`);
});

test("a place stays behind its character", () => {
  const { replicas, give } = pair();
  const [a, b] = replicas;
  new Undo(a, "text").edit({ at: 0, deleted: 0, inserted: "warp weft" });
  give(0);
  const node = a.str("text");
  const id = idBefore(node, 4);
  new Undo(b, "text").edit({ at: 0, deleted: 0, inserted: "The " });
  give(1);
  assert.equal(positionBehind(node, id), 8);
  new Undo(a, "text").edit({ at: 5, deleted: 4, inserted: "" });
  assert.equal(positionBehind(node, id), 5);
  assert.equal(positionBehind(node, undefined), 0);
  assert.equal(positionBehind(node, { sid: 99_999, time: 7 }), a.text("text").length);
});
