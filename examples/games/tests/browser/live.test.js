import assert from "node:assert/strict";
import { test } from "node:test";
import { together, wholeRecord } from "./harness.js";

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a game made and edited in one window is seen in the other (${transport})`, together(async ({ program, ann, bo }) => {
    const [left, right] = [await ann.open({ transport }), await bo.open({ transport })];
    for (const window of [left, right]) await window.is("live", transport);
    const id = await left.create("Reversi");
    await right.openGame("Reversi");
    await left.set("gold", 250);
    await right.shows("gold", 250);
    await right.set("notes", "Ann leads.");
    await left.shows("notes", "Ann leads.");
    await right.set("status", "playing");
    await left.shows("status", "playing");
    await left.page.fill("#field-players", "Ann");
    await left.page.press("#field-players", "Enter");
    await right.page.locator(".players li", { hasText: "Ann" }).waitFor();
    await right.page.fill("#field-new-key", "board");
    await right.page.fill('[aria-label="Value of the new field, as JSON"]', '{"size": 8}');
    await right.page.click("text=Add field");
    await left.page.locator('.other[data-field="board"]').waitFor();
    for (const window of [left, right]) await window.hasUnsent(0);
    const { game } = await wholeRecord(program, id);
    assert.deepEqual(game, {
      name: "Reversi",
      status: "playing",
      gold: 250,
      experience: 0,
      level: 1,
      players: ["Ann"],
      notes: "Ann leads.",
      board: { size: 8 },
    });
  }));
}

test("the transport can be switched while the page is open, and nothing is lost on the way", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const id = await left.create("Go");
  await right.openGame("Go");
  for (const [round, transport] of ["sse", "websocket", "poll", "websocket"].entries()) {
    await left.page.selectOption("#transport", transport);
    await right.set("gold", 1000 + round);
    await left.shows("gold", 1000 + round);
    await left.is("live", transport);
  }
  await wholeRecord(program, id);
}));

test("where no WebSocket gets through, the page goes on by SSE", together(async ({ ann, bo }) => {
  ann.cable.refuse = /upgrade: websocket/i;
  const [left, right] = [await ann.open({ transport: "auto" }), await bo.open()];
  await left.is("live", "sse");
  await right.create("Chess");
  await left.openGame("Chess");
  await left.set("gold", 5);
  await right.shows("gold", 5);
}));

test("a disconnected window is brought up to date by hand", together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  await left.create("Shogi");
  await left.hasUnsent(0);
  await right.openGame("Shogi");
  await left.page.click("#connect");
  await left.is("off");
  await right.set("gold", 77);
  await right.set("level", 4);
  await right.hasUnsent(0);
  assert.equal(await left.page.inputValue("#field-gold"), "100");
  await left.page.click("#sync");
  await left.shows("gold", 77);
  await left.shows("level", 4);
  await left.is("off");
  await left.page.click("#connect");
  await left.is("live");
}));

test("a deleted game goes away in the other window, and can be brought back", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const id = await left.create("Ludo");
  await right.openGame("Ludo");
  await left.page.click("text=Delete");
  await left.page.click("#confirm-yes");
  await left.page.locator("#games-list li").waitFor({ state: "detached" });
  await right.page.locator("text=This game was deleted").waitFor();
  assert.equal((await program.get(`/api/games/${id}`)).status, 404);
  await right.page.locator(".number", { hasText: "#2" }).click();
  await right.page.click("text=Restore this state");
  await left.page.locator("#games-list a", { hasText: "Ludo" }).waitFor();
  await right.hasUnsent(0);
  const { game, events } = await wholeRecord(program, id);
  assert.equal(game.name, "Ludo");
  assert.deepEqual(events.map(({ operation }) => operation), ["create", "update", "delete", "create"]);
}));

test("each sees who else has the game open, and at which field", together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  await left.create("Together");
  await left.hasUnsent(0);
  await right.openGame("Together");
  await left.page.locator('.people[data-count="1"]').waitFor();
  await right.page.focus("#field-gold");
  await left.page.locator('.person[data-field="gold"]').waitFor();
  await left.page.locator("#field-gold[data-others]").waitFor();
  await right.page.focus("#field-name");
  await left.page.locator("#field-name[data-others]").waitFor();
  assert.equal(await left.page.locator("[data-others]").count(), 1);
  assert.equal(await left.page.locator(".person").count(), 1, "one is there, wherever it was before");
  // The name of the game has room beside them, and nothing sticks out.
  for (const width of [320, 390, 768, 1280]) {
    await left.page.setViewportSize({ width, height: 800 });
    assert.ok((await left.page.locator("#game-title").boundingBox()).height < 40, `the name is one line at ${width} px`);
    assert.equal(await left.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, `${width} px`);
  }
  // Cut off, nobody is known to be here; back, all are.
  ann.cable.cut();
  await left.page.locator('.people[data-count="0"]').waitFor({ state: "attached" });
  ann.cable.mend();
  await left.page.locator('.person[data-field="name"]').waitFor();
  await right.page.close();
  await left.page.locator('.people[data-count="0"]').waitFor({ state: "attached" });
  assert.equal(await left.page.locator(".person").count(), 0);
}));
