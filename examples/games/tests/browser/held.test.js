import assert from "node:assert/strict";
import { test } from "node:test";
import { together, wholeRecord } from "./harness.js";

/** Puts a text into the notes as a paste does: at once. @param {any} window @param {string} text */
const paste = (window, text) =>
  window.page.locator("#field-notes").evaluate((notes, value) => {
    notes.focus();
    notes.value = value;
    notes.dispatchEvent(new Event("input", { bubbles: true }));
    notes.blur();
  }, text);

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a text too large for the server is kept in sight, and what is written after it goes (${transport})`, together(async ({ program, ann }) => {
    const left = await ann.open({ transport });
    await left.is("live", transport);
    const id = await left.create("Epic");
    await left.hasUnsent(0);
    await paste(left, "w".repeat(1_200_000));
    await left.page.locator(".kept-back", { hasText: "1048576" }).waitFor();
    await left.shows("notes", "");
    await left.set("gold", 7);
    await left.hasUnsent(0);
    const { game } = await wholeRecord(program, id);
    assert.deepEqual([game.gold, game.notes], [7, ""]);

    // It outlives the window, and goes when the user says so.
    await left.page.reload();
    await left.is("live", transport);
    await left.page.locator(".held > li").waitFor();
    await left.page.locator("#games-list .blocked").waitFor();
    await left.page.click("text=Try again");
    await left.page.locator(".toast.error", { hasText: "too large" }).waitFor();
    await left.page.locator(".held > li").waitFor();
    await left.page.click("text=Discard");
    await left.page.locator(".kept-back").waitFor({ state: "hidden" });
    await left.page.locator("#games-list .blocked").waitFor({ state: "hidden" });
    await left.hasUnsent(0);
  }));
}

test("what is typed just before the window closes is not lost", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Haste");
  await left.hasUnsent(0);
  await left.page.focus("#field-notes");
  await left.page.keyboard.type("last words");
  await left.page.reload();
  await left.is("live");
  await left.shows("notes", "last words");
  await left.hasUnsent(0);
  const { game } = await wholeRecord(program, id);
  assert.equal(game.notes, "last words");
}));
