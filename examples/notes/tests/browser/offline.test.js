import assert from "node:assert/strict";
import test from "node:test";
import { Person, together, typeAtOnce } from "./harness.js";

test("what is typed offline is there when the cable is back, on both sides", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.type("shared. ");
  await right.shows("shared. ");
  await ann.unplug();
  await left.is("offline");
  await left.select(8);
  await left.type("Ann was away. ");
  await left.title.fill("Away");
  await right.select(0);
  await right.type("Bo was here. ");
  await right.hasUnsent(0);
  assert.match(await left.page.textContent("#badge"), /^Offline · \d+ edits kept here$/);
  await ann.plugIn();
  await left.is("live");
  const whole = "Bo was here. shared. Ann was away. ";
  await left.shows(whole);
  await right.shows(whole);
  await right.hasTitle("Away");
  await left.hasUnsent(0);
  assert.equal((await program.note()).text, whole);
}));

test("a window opens without the node, with what was typed before, and sends it later", together(async ({ program, ann, bo }) => {
  const left = await ann.open("Ann");
  await left.type("online, ");
  await left.hasUnsent(0);
  await left.reload();
  await left.shows("online, ");
  await ann.unplug();
  await left.is("offline");
  await left.select(8);
  await left.type("offline, ");
  await left.page.reload();
  await left.shows("online, offline, ");
  await left.select(17);
  await left.type("reloaded.");
  await left.page.close();
  // The browser is closed and opened; nobody has been online since.
  const again = await ann.profile.context.newPage();
  await again.goto(ann.cable.address);
  await again.waitForFunction(() => document.getElementById("text").value === "online, offline, reloaded.");
  await ann.plugIn();
  await again.locator('#badge[data-status="live"][data-unsent="0"]').waitFor();
  assert.equal((await program.note()).text, "online, offline, reloaded.");
  const right = await bo.open("Bo");
  await right.shows("online, offline, reloaded.");
}));

test("windows of one browser share what is kept, and lose nothing of each other", together(async ({ program, ann }) => {
  const [one, two] = [await ann.open("One"), await ann.open("Two")];
  await one.type("both. ");
  await two.shows("both. ");
  await ann.unplug();
  await one.is("offline");
  await two.is("offline");
  await one.select(6);
  await one.type("one ");
  await two.select(6);
  await two.type("two ");
  await one.page.close();
  await two.page.close();
  await ann.plugIn();
  const third = await ann.open("Three");
  await third.hasUnsent(0);
  const { text } = await program.note();
  assert.ok(["both. one two ", "both. two one "].includes(text), text);
  await third.shows(text);
}));

test("the program is killed while two people type: nothing is lost, nothing comes twice", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  const { typed, whole } = await typeAtOnce(left, right);
  await program.kill();
  await typed;
  await left.is("offline");
  assert.ok(Number(await left.page.getAttribute("#badge", "data-unsent")) > 0);
  await program.restart();
  await left.shows(whole);
  await right.shows(whole);
  await left.hasUnsent(0);
  await right.hasUnsent(0);
  await program.kill();
  await program.restart();
  assert.equal((await program.note()).text, whole);
}));

test("a proxy that swallows answers costs nothing but time", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.type("a");
  await left.hasUnsent(0);
  ann.cable.muteServer();
  await left.type("bc");
  await right.shows("abc");
  await left.hasUnsent(2);
  ann.cable.cut();
  await left.is("offline");
  ann.cable.mend();
  await left.is("live");
  await left.hasUnsent(0);
  await right.type("!");
  await left.shows("!abc");
  assert.equal((await program.note()).text, "!abc");
}));

test("somebody who comes late begins with all of it", together(async ({ program, ann }) => {
  const left = await ann.open("Ann");
  const long = Array.from({ length: 400 }, (_, i) => `Line ${i} of a text that is longer than a page of patches.`).join("\n");
  await left.text.fill(long);
  for (let i = 0; i < 30; i++) await left.type(".");
  await left.hasUnsent(0);
  const late = await Person.sitDown(() => program.port);
  try {
    const window = await late.open("Late");
    await window.shows(await left.text.inputValue());
    assert.deepEqual(late.profile.unexpectedErrors, []);
  } finally {
    await late.leave();
  }
}));
