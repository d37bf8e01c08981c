import assert from "node:assert/strict";
import { once } from "node:events";
import test from "node:test";
import { WebSocket } from "ws";
import { together } from "./harness.js";

test("everything can be done from the keyboard", together(async ({ program, ann }) => {
  const { page, ...left } = await ann.open();
  const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.className);
  assert.equal(await focused(), "text");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await focused(), "title");
  await page.keyboard.type("By hand");
  await page.keyboard.press("Enter");
  assert.equal(await focused(), "text");
  await page.keyboard.type("first\n");
  await page.waitForTimeout(700); // Typing with a pause is two steps.
  await page.keyboard.type("second");
  await page.keyboard.press("Control+z");
  assert.equal(await left.text.inputValue(), "first\n");
  await page.keyboard.press("Control+Shift+z");
  assert.equal(await left.text.inputValue(), "first\nsecond");
  await page.locator('#badge[data-unsent="0"]').waitFor();
  const { store, ...note } = await program.note();
  assert.deepEqual(note, { doc: "demo", title: "By hand", text: "first\nsecond" });
  assert.match(store, /^[0-9a-f]{16}$/);
  await page.locator("body").evaluate((body) => body.focus());
  for (const wanted of ["theme", "name"]) {
    while ((await focused()) !== wanted) await page.keyboard.press("Shift+Tab");
  }
  await page.locator("#theme").focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.getAttribute("html", "data-theme"), "light");
}));

test("undo leaves what the other wrote in between", together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  await left.type("mine");
  await right.shows("mine");
  await right.select(2);
  await right.type("--");
  await left.shows("mi--ne");
  await left.page.keyboard.press("Control+z");
  await right.shows("--");
  await left.page.keyboard.press("Control+y");
  await right.page.waitForFunction(() => document.getElementById("text").value.replaceAll("-", "") === "mine");
}));

test("a phone shows all of it without scrolling sideways", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Somebody with quite a long name indeed")];
  await program.type("title A title that is long enough to be wider than a phone, and then some");
  const text = "averyveryveryveryveryveryveryverylongwordthatfitsnowhere ".repeat(4);
  await left.type(text);
  await right.shows(text);
  // The name at a caret stays within, wherever in its line the caret is.
  for (let at = 60; at < 110; at += 6) {
    await right.select(at);
    await left.page.waitForFunction((at) => document.querySelector(".caret")?.previousSibling?.textContent.length === at, at);
    const { scroll, client } = await left.page.evaluate(() => ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
    assert.ok(scroll <= client, `${scroll} in ${client}, caret at ${at}`);
  }
  for (const control of ["#name", "#theme"]) {
    const { height } = await left.page.locator(control).boundingBox();
    assert.ok(height >= 36, `${control} is ${height} high`);
  }
  // The copy, which the carets stand in, breaks lines where the textarea does.
  const heights = await left.page.evaluate(() => [document.getElementById("copy").scrollHeight, document.getElementById("text").scrollHeight]);
  assert.ok(Math.abs(heights[0] - heights[1]) <= 1, `${heights}`);
}, { mobile: true }));

test("nothing from elsewhere may run or load", together(async ({ program }) => {
  const response = await fetch(`http://${program.address}/`);
  assert.match(response.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'/);
  const socket = new WebSocket(`ws://${program.address}/socket`, { origin: "http://evil.example" });
  const [error] = await once(socket, "error");
  assert.match(error.message, /403/);
  assert.equal((await fetch(`http://${program.address}/web/../Cargo.toml`)).status, 404);
  const licences = await fetch(`http://${program.address}/web/vendor/json-joy.licences.txt`);
  assert.equal(licences.headers.get("content-type"), "text/plain; charset=utf-8");
}));
