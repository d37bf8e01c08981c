import assert from "node:assert/strict";
import test from "node:test";
import { together } from "./harness.js";

test("two people type at once, and both see both", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.type("middle");
  await right.shows("middle");
  await right.select(0);
  await left.select(6);
  await Promise.all([left.type(" and end of it, from Ann"), right.type("From Bo the start, then ")]);
  const whole = "From Bo the start, then middle and end of it, from Ann";
  await left.shows(whole);
  await right.shows(whole);
  await left.hasUnsent(0);
  await right.hasUnsent(0);
  assert.equal((await program.note()).text, whole);
  assert.match(await program.type("show"), /^1 \| From Bo the start, .* from Ann/);
}));

test("the terminal and the windows edit one text", together(async ({ program, ann }) => {
  const left = await ann.open("Ann");
  await program.type("title Shopping");
  await program.type("add milk");
  await program.type("add bread 😀");
  await left.hasTitle("Shopping");
  await left.shows("milk\nbread 😀\n");
  await left.select(4);
  await left.type(", cold");
  await left.hasUnsent(0);
  assert.equal(await program.type("line 1"), "milk, cold");
  await program.type("del 1:5 6");
  await left.shows("milk\nbread 😀\n");
  // The selection stays with its characters, whatever happens before it.
  await left.select(5, 10);
  await program.type("ins 1:1 fresh ");
  await left.shows("fresh milk\nbread 😀\n");
  assert.deepEqual(await left.caret(), [11, 16]);
  await left.title.fill("Shopping, Friday");
  await left.hasUnsent(0);
  assert.match(await program.type("show"), /^# Shopping, Friday\n1 \| fresh milk/);
}));

test("each sees who is here and where, until they go", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.type("0123456789");
  await right.shows("0123456789");
  await right.select(4);
  await left.page.waitForFunction(() => document.querySelector('.caret[data-name="Bo"]')?.previousSibling?.textContent === "0123");
  // It moves with its character.
  await left.select(0);
  await left.type("ab");
  await left.page.waitForFunction(() => document.querySelector('.caret[data-name="Bo"]')?.previousSibling?.textContent === "ab0123");
  await left.hasUnsent(0);
  assert.match(await program.type("who"), /Bo \(window-[0-9a-f]+\) at 1:7/);
  await program.type("name Mina");
  await program.type("at 1:2");
  await left.page.locator('.caret[data-name="Mina"]').waitFor({ state: "attached" });
  await left.page.locator('#people[data-count="3"]').waitFor();
  assert.deepEqual((await left.page.locator("#people .spoken").allTextContents()).toSorted(), ["Ann (you)", "Bo, editing", "Mina, editing"]);
  await right.rename("Bob");
  await left.page.locator('.caret[data-name="Bob"]').waitFor({ state: "attached" });
  await right.page.close();
  await left.page.locator('#people[data-count="2"]').waitFor();
  await left.page.locator('.caret[data-name="Bob"]').waitFor({ state: "detached" });
}));

test("a name is text, whatever it looks like", together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open('<img src=x onerror="alert(1)">')];
  await right.select(0);
  const caret = left.page.locator(".caret");
  await caret.waitFor({ state: "attached" });
  assert.equal(await caret.getAttribute("data-name"), '<img src=x onerror="alert(1)">');
  assert.equal(await left.page.locator("img").count(), 0);
}));

test("what others write waits while an input method is at work", together(async ({ program, ann }) => {
  const left = await ann.open("Ann");
  await left.type("start ");
  await left.hasUnsent(0);
  const devtools = await ann.profile.context.newCDPSession(left.page);
  await devtools.send("Input.imeSetComposition", { text: "ㅎ", selectionStart: 1, selectionEnd: 1 });
  await devtools.send("Input.imeSetComposition", { text: "하", selectionStart: 1, selectionEnd: 1 });
  await program.type("ins 1:1 before ");
  await devtools.send("Input.imeSetComposition", { text: "한", selectionStart: 1, selectionEnd: 1 });
  assert.equal(await left.text.inputValue(), "start 한");
  await devtools.send("Input.insertText", { text: "한" });
  await left.shows("before start 한");
  await left.type("글");
  await left.shows("before start 한글");
  await left.hasUnsent(0);
  assert.equal((await program.note()).text, "before start 한글");
}));
