/** A node that comes up with another store: what is typed at its windows is saved all the same, and what they had is not lost. */

import assert from "node:assert/strict";
import { rename } from "node:fs/promises";
import test from "node:test";
import { KEPT_AT, together, typeAtOnce, WAIT_MS } from "./harness.js";

const dismiss = (window) => window.page.locator("#left button", { hasText: "Discard" }).click();

test("an emptied node gets back what its windows have", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.type("shared. ");
  await right.shows("shared. ");
  await left.hasUnsent(0);
  await ann.unplug();
  await left.is("offline");
  await left.select(8);
  await left.type("Ann was away. ");
  await program.kill();
  await program.empty();
  await program.restart();
  await ann.plugIn();
  await left.is("live");
  await left.hasUnsent(0);
  // Bo's window began with a snapshot, so it is Ann's that brings all of it.
  await right.shows("shared. Ann was away. ");
  await right.is("live");
  await right.select(0);
  await right.type("Bo was here. ");
  const whole = "Bo was here. shared. Ann was away. ";
  await left.shows(whole);
  await right.shows(whole);
  await right.hasUnsent(0);
  assert.equal((await program.note()).text, whole);
}));

test("a window that can not bring back what it is built on says so, keeps it, and goes on", together(async ({ program, ann, bo }) => {
  let left = await ann.open("Ann");
  await left.type("old text. ");
  await left.hasUnsent(0);
  await left.isFolded();
  await left.reload();
  await left.shows("old text. ");
  await ann.unplug();
  await left.is("offline");
  await left.select(10);
  await left.type("Typed offline. ");
  await program.kill();
  await program.empty();
  await program.restart();
  await program.type("add new");
  await ann.plugIn();
  // It begins anew by itself, with what the node has, and shows what it had.
  await left.page.locator("#left:not([hidden])").waitFor({ timeout: 2 * WAIT_MS });
  assert.equal(await left.page.inputValue("#left textarea"), "old text. Typed offline. ");
  await left.is("live");
  await left.shows("new\n");
  await left.select(4);
  await left.type("typed by Ann");
  await left.hasUnsent(0);
  const right = await bo.open("Bo");
  await right.shows("new\ntyped by Ann");
  assert.equal((await program.note()).text, "new\ntyped by Ann");
  // It is shown until it is not wanted any more.
  await left.page.reload();
  await left.shows("new\ntyped by Ann");
  assert.equal(await left.page.inputValue("#left textarea"), "old text. Typed offline. ");
  await dismiss(left);
  await left.page.reload();
  await left.is("live");
  assert.ok(await left.page.locator("#left").isHidden());
}));

test("texts of one name in two folders are not mixed, and each window's edits reach the folder they belong to", together(async ({ program, ann }) => {
  const left = await ann.open("Ann");
  await left.type("first folder. ");
  await left.hasUnsent(0);
  await ann.unplug();
  await left.is("offline");
  await left.select(14);
  await left.type("Typed offline. ");
  await program.kill();
  const aside = `${program.folder}-aside`;
  await rename(program.folder, aside);
  await program.restart();
  await program.type("add second folder");
  await ann.plugIn();
  await left.page.locator("#left:not([hidden])").waitFor({ timeout: 2 * WAIT_MS });
  await left.shows("second folder\n");
  assert.equal((await program.note()).text, "second folder\n");
  // The first one is back: so is the window's copy of it, with what could not be sent.
  await program.kill();
  await program.empty();
  await rename(aside, program.folder);
  await program.restart();
  const again = await ann.open("Ann");
  await again.shows("first folder. Typed offline. ");
  await again.hasUnsent(0);
  assert.equal((await program.note()).text, "first folder. Typed offline. ");
}));

test("a node that is stopped while somebody types is taken for one that comes back", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  const { typed, whole } = await typeAtOnce(left, right);
  await program.terminate();
  await typed;
  await program.restart();
  await left.shows(whole);
  await right.shows(whole);
  await left.hasUnsent(0);
  await right.hasUnsent(0);
  assert.equal((await program.note()).text, whole);
}));

test("something unreadable beside what a browser keeps costs nothing of the rest", together(async ({ program, ann }) => {
  const left = await ann.open("Ann");
  await left.type("kept");
  await left.hasUnsent(0);
  await left.reload();
  await ann.unplug();
  await left.is("offline");
  await left.select(4);
  await left.type(", offline");
  await left.page.evaluate((name) => localStorage.setItem(`${name}/late/1-1`, "{not json"), KEPT_AT);
  await left.page.reload();
  await left.shows("kept, offline");
  await ann.plugIn();
  await left.hasUnsent(0);
  assert.equal((await program.note()).text, "kept, offline");
}));
