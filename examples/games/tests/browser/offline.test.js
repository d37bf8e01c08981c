import assert from "node:assert/strict";
import { test } from "node:test";
import { together, wholeRecord } from "./harness.js";

for (const transport of ["websocket", "sse", "poll"]) {
  test(`edits made offline are kept, sent on return, and both windows agree (${transport})`, together(async ({ program, ann, bo }) => {
    const [left, right] = [await ann.open({ transport }), await bo.open({ transport })];
    const id = await left.create("Catan");
    await left.hasUnsent(0);
    await right.openGame("Catan");
    await ann.unplug();
    await left.is("offline");
    await left.set("gold", 500);
    await left.set("notes", "written on the train");
    await left.hasUnsent(2);
    await right.set("level", 9);
    await right.hasUnsent(0);
    assert.equal((await program.get(`/api/games/${id}`)).body.state.gold, 100);
    await ann.plugIn();
    await left.is("live");
    await left.hasUnsent(0);
    for (const window of [left, right]) {
      await window.shows("gold", 500);
      await window.shows("level", 9);
      await window.shows("notes", "written on the train");
    }
    const { game, events } = await wholeRecord(program, id);
    assert.deepEqual([game.gold, game.level, game.notes], [500, 9, "written on the train"]);
    assert.equal(events.length, 5);
  }));
}

test("a game made offline is there for all on return", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  await left.is("live");
  await ann.unplug();
  await left.is("offline");
  const id = await left.create("Skat");
  await left.set("gold", 3);
  await left.page.locator(".unsent", { hasText: "not sent" }).waitFor();
  await ann.plugIn();
  await right.openGame("Skat");
  await right.shows("gold", 3);
  await left.hasUnsent(0);
  await wholeRecord(program, id);
}));

test("two who changed the same while one was away see it, and either value can be chosen", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const id = await left.create("Poker");
  await left.hasUnsent(0);
  await right.openGame("Poker");
  await left.page.selectOption("#strategy", "threeWay");
  await ann.unplug();
  await left.is("offline");
  await left.set("gold", 111);
  await left.set("level", 2);
  await right.set("gold", 222);
  await right.hasUnsent(0);
  await ann.plugIn();
  await left.is("live");
  await left.shows("gold", 222);
  const conflict = left.page.locator('.conflicts li[data-path="/gold"]');
  await conflict.waitFor();
  assert.match(await conflict.textContent(), /111.*222/);
  await right.shows("level", 2);
  await conflict.locator("button", { hasText: "Use mine" }).click();
  for (const window of [left, right]) await window.shows("gold", 111);
  await left.hasUnsent(0);
  const { game } = await wholeRecord(program, id);
  assert.deepEqual([game.gold, game.level], [111, 2]);
}));

test("a server that is killed while edits wait gets them when it is back, each once", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const id = await left.create("Bridge");
  await left.hasUnsent(0);
  await right.openGame("Bridge");
  for (let round = 1; round <= 3; round++) {
    // In the midst of edits: some are stored, some are under way, some come after.
    for (let i = 0; i < 8; i++) await left.page.click('[aria-label="Raise level by 1"]');
    await program.kill();
    for (let i = 0; i < 4; i++) await left.page.click('[aria-label="Raise level by 1"]');
    await left.is("offline");
    await right.set("gold", round);
    await program.restart();
    for (const window of [left, right]) {
      await window.hasUnsent(0);
      await window.is("live");
      await window.shows("level", 1 + 12 * round);
      await window.shows("gold", round);
    }
  }
  const { game, events } = await wholeRecord(program, id);
  assert.deepEqual([game.level, game.gold], [37, 3]);
  const levels = events.flatMap(({ diff }) => diff.jsonPatch.filter(({ path }) => path === "/level").map(({ value }) => value));
  assert.deepEqual(levels, Array.from({ length: 36 }, (_, i) => i + 2), "every step once and in order");
}));

test("an edit whose answer is lost is not made twice", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Domino");
  await left.hasUnsent(0);
  ann.cable.muteServer();
  await left.page.click('[aria-label="Raise gold by 10"]');
  while ((await program.get(`/api/games/${id}`)).body.state.gold !== 110) await left.page.waitForTimeout(20);
  await left.hasUnsent(1);
  ann.cable.cut();
  await left.is("offline");
  ann.cable.mend();
  await left.is("live");
  await left.hasUnsent(0);
  await left.shows("gold", 110);
  const { events } = await wholeRecord(program, id);
  assert.equal(events.length, 3);
}));

test("edits outlive the window: the next one sends them under the same name", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Mikado");
  await left.hasUnsent(0);
  const clientId = await left.page.textContent("#client-id");
  await ann.unplug();
  await left.is("offline");
  await left.set("gold", 42);
  await left.hasUnsent(1);
  await left.page.close();
  await ann.plugIn();
  const next = await ann.open();
  await next.is("live");
  await next.hasUnsent(0);
  assert.equal(await next.page.textContent("#client-id"), clientId);
  const { game } = await wholeRecord(program, id);
  assert.equal(game.gold, 42);
}));

test("two windows of one browser never share a name, and a closed one's edits are sent by the other", together(async ({ program, ann }) => {
  const [first, second] = [await ann.open(), await ann.open()];
  const names = await Promise.all([first, second].map(({ page }) => page.textContent("#client-id")));
  assert.notEqual(names[0], names[1]);
  const id = await first.create("Halma");
  await first.hasUnsent(0);
  await second.openGame("Halma");
  await ann.unplug();
  for (const [i, window] of [first, second].entries()) {
    await window.is("offline");
    await window.set(["gold", "level"][i], 70 + i);
    await window.hasUnsent(1);
  }
  await first.page.close();
  await second.page.close();
  await ann.plugIn();
  const only = await ann.open();
  await only.openGame("Halma");
  await only.shows("gold", 70);
  await only.shows("level", 71);
  const { game } = await wholeRecord(program, id);
  assert.deepEqual([game.gold, game.level], [70, 71]);
}));

test("the page opens without the server, shows what it knew, and takes edits", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Solo");
  await left.hasUnsent(0);
  // The worker that keeps the page is in charge from the second load on.
  await left.page.evaluate(() => navigator.serviceWorker.ready);
  await left.page.reload();
  await left.is("live");
  await left.shows("name", "Solo");
  await program.kill();
  await left.page.reload();
  await left.is("offline");
  await left.shows("name", "Solo");
  await left.set("gold", 12);
  await left.hasUnsent(1);
  await program.restart();
  await left.is("live");
  await left.hasUnsent(0);
  const { game } = await wholeRecord(program, id);
  assert.equal(game.gold, 12);
}));

test("what is kept in the browser is kept again after another page has deleted or changed the database", together(async ({ ann }) => {
  const { page } = await ann.open();
  const kept = await page.evaluate(async () => {
    const { IndexedDbStore } = await import("/client/index.js");
    const record = (version) => ({ documentId: "a", version, state: null, stateVector: {}, pending: [] });
    const done = (request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const store = new IndexedDbStore("probe");
    await store.put("me", record(1));
    await done(indexedDB.deleteDatabase("probe"));
    await store.put("me", record(2));
    const [again] = await store.load("me");
    // A newer page's database is not written to: that is told, each time anew, and over when the newer one is gone.
    (await done(indexedDB.open("probe", 2))).close();
    const refused = [];
    for (let i = 0; i < 2; i++) await store.put("me", record(3)).catch((error) => refused.push(error.name));
    await done(indexedDB.deleteDatabase("probe"));
    await store.put("me", record(4));
    return { again: again.version, refused, last: (await store.load("me"))[0].version };
  });
  assert.deepEqual(kept, { again: 2, refused: ["VersionError", "VersionError"], last: 4 });
}));
