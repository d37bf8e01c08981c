import assert from "node:assert/strict";
import { test } from "node:test";
import { together, wholeRecord } from "./harness.js";

test("the log, the state vector and the slider tell what happened", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const id = await left.create("Senet");
  await left.hasUnsent(0);
  await right.openGame("Senet");
  await right.set("gold", 250);
  await left.shows("gold", 250);
  await left.set("level", 3);
  await right.shows("level", 3);
  const [annId, boId] = await Promise.all([left, right].map(({ page }) => page.textContent("#client-id")));
  await left.logShows(`gold 100 → 250`);
  const entries = await left.page.locator(".log > li").allTextContents();
  assert.equal(entries.length, 4);
  assert.match(entries[0], /^#4updatedthis window\d.*level 1 → 3$/);
  assert.match(entries[1], new RegExp(`^#3updated${boId}\\d.*gold 100 → 250$`));
  assert.match(entries[3], /^#1createdthis window/);
  assert.equal(await left.page.textContent(`.vector [data-client="${annId}"] td`), "3");
  assert.equal(await left.page.textContent(`.vector [data-client="${boId}"] td`), "1");

  await left.page.fill("#timeline", "2");
  await left.shows("gold", 100);
  await left.shows("level", 1);
  assert.ok(await left.page.isDisabled("#field-gold"));
  await right.set("experience", 900);
  await left.logShows("experience 0 → 900");
  await left.shows("gold", 100);
  await left.page.fill("#timeline", "3");
  await left.shows("gold", 250);
  await left.page.locator(".field.changed #field-gold").waitFor();
  await left.page.click("text=Back to now");
  await left.shows("level", 3);
  await left.shows("experience", 900);
  await left.page.locator(".number", { hasText: "#2" }).click();
  await left.shows("gold", 100);
  await left.page.click("text=Restore this state");
  await right.shows("gold", 100);
  await left.hasUnsent(0);
  const { game, events } = await wholeRecord(program, id);
  assert.deepEqual([game.gold, game.level, events.length], [100, 1, 6]);
}));

test("a snapshot is made by hand, and shown again later", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Kept");
  await left.set("gold", 5);
  await left.hasUnsent(0);
  await left.page.click("text=Take a snapshot");
  await left.page.locator(".snapshots .number", { hasText: "#3" }).waitFor();
  await left.set("gold", 6);
  await left.hasUnsent(0);
  const { body } = await program.get(`/api/snapshots/${encodeURIComponent(id)}`);
  assert.deepEqual(body.items.map(({ version }) => version), [3]);
  await left.page.reload();
  await left.shows("gold", 6);
  await left.page.locator(".snapshots .number", { hasText: "#3" }).click();
  await left.shows("gold", 5);
  assert.ok(await left.page.isDisabled("#field-gold"));
}));

test("the slider reaches events from long before the page was opened", together(async ({ program, ann }) => {
  const write = async (path, method, body) => {
    const headers = { "content-type": "application/json" };
    const response = await fetch(`http://${program.address}${path}`, { method, headers, body: JSON.stringify(body) });
    assert.ok(response.ok, await response.text());
  };
  await write("/api/games?id=long", "POST", { name: "Long", gold: 0 });
  for (let gold = 1; gold <= 240; gold++) await write("/api/games/long", "PATCH", { gold });
  const left = await ann.open({ path: "/#/games/long" });
  await left.shows("gold", 240);
  await left.logShows("gold 239 → 240");
  await left.page.fill("#timeline", "11");
  await left.shows("gold", 10);
  await left.page.fill("#timeline", "200");
  await left.shows("gold", 199);
  await left.page.click("text=Show earlier events");
  await left.logShows("gold 41 → 42");
  await left.page.click("text=Show earlier events");
  await left.logShows("gold 0 → 1");
  await left.page.locator("text=Show earlier events").waitFor({ state: "hidden" });
  assert.equal(await left.page.locator(".log > li").count(), 241);
}));

test("two who type into one text both keep their words", together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  await left.create("Duet");
  await left.set("notes", "middle");
  await left.hasUnsent(0);
  await right.openGame("Duet");
  await left.page.focus("#field-notes");
  await left.page.keyboard.press("Home");
  await right.page.focus("#field-notes");
  await right.page.keyboard.press("End");
  await Promise.all([
    left.page.keyboard.type("left ", { delay: 30 }),
    right.page.keyboard.type(" right", { delay: 30 }),
  ]);
  for (const window of [left, right]) await window.shows("notes", "left middle right");
}));

test("everything can be done with the keyboard alone", together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  const { keyboard } = left.page;
  const focused = () => left.page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute("aria-label") || document.activeElement?.textContent);
  const tabTo = async (wanted) => {
    const passed = [];
    for (let steps = 0; steps < 60; steps++) {
      const at = await focused();
      if (at === wanted) return;
      passed.push(at);
      await keyboard.press("Tab");
    }
    assert.fail(`no way by Tab to ${wanted}; passed ${passed}`);
  };
  await tabTo("create");
  await keyboard.press("Enter");
  await left.page.waitForFunction(() => document.activeElement?.id === "field-name");
  await keyboard.type("Keys");
  await keyboard.press("Enter");
  await tabTo("field-status");
  await keyboard.press("ArrowDown");
  await tabTo("Raise gold by 10");
  await keyboard.press("Space");
  await tabTo("field-players");
  await keyboard.type("Ann");
  await keyboard.press("Enter");
  await tabTo("timeline");
  await right.openGame("Keys");
  await right.shows("gold", 110);
  await right.shows("status", "playing");
  await keyboard.press("Home");
  await left.shows("gold", 100);
  await keyboard.press("End");
  await left.shows("gold", 110);
  await left.page.evaluate(() => document.activeElement.blur());
  await left.page.focus(".skip");
  await tabTo("Delete");
  await keyboard.press("Enter");
  await tabTo("confirm-yes");
  await keyboard.press("Enter");
  await left.page.locator("#games-list li").waitFor({ state: "detached" });
  await right.page.locator("text=This game was deleted").waitFor();
  assert.deepEqual((await program.get("/api/games")).body.items, []);
}));

test("nothing sticks out on a phone, whatever the game is called", together(async ({ ann }) => {
  const left = await ann.open();
  await left.create("W".repeat(120));
  await left.set("notes", "n".repeat(500));
  await left.page.fill("#field-players", "P".repeat(70));
  await left.page.press("#field-players", "Enter");
  await left.page.fill("#field-new-key", "k".repeat(60));
  await left.page.fill('[aria-label="Value of the new field, as JSON"]', JSON.stringify("v".repeat(300)));
  await left.page.click("text=Add field");
  await left.hasUnsent(0);
  const hash = new URL(left.page.url()).hash;
  for (const width of [320, 360, 390, 768, 1100, 1440]) {
    await left.page.setViewportSize({ width, height: 740 });
    for (const view of ["#/", hash]) {
      await left.page.evaluate((to) => (location.hash = to), view);
      const { scrollWidth, clientWidth } = await left.page.evaluate(() => document.documentElement);
      const overflow = await left.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(overflow, 0, `${view} at ${width} px: ${scrollWidth} > ${clientWidth}`);
    }
  }
  // Large enough for a finger.
  await left.page.setViewportSize({ width: 390, height: 740 });
  for (const button of await left.page.locator(".controls button, .controls select, .detail .button:visible").all()) {
    const { height } = await button.boundingBox();
    assert.ok(height >= 38, `${await button.textContent()} is ${height} px high`);
  }
}));

test("what others write is text and nothing else", together(async ({ program, ann }) => {
  const evil = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`;
  const id = "a/b ?#%&\"<x>";
  const response = await fetch(`http://${program.address}/api/games?id=${encodeURIComponent(id)}`, {
    method: "POST",
    headers: { "content-type": "application/json", "weft-client-id": "__proto__" },
    body: JSON.stringify({ name: evil, status: evil, notes: evil, players: [evil, { deep: evil }], gold: "not a number", [evil]: evil }),
  });
  assert.ok(response.ok, await response.text());
  const left = await ann.open();
  await left.openGame("<img");
  await left.shows("name", evil);
  await left.page.click('[aria-label="Raise gold by 10"]');
  await left.logShows("gold");
  await left.hasUnsent(0);
  assert.equal(await left.page.locator("main img, main script, nav img").count(), 0);
  assert.equal(await left.page.title(), "Games · Weft");
  await wholeRecord(program, id);
}));

test("a value that is none is marked, and the rest of the form goes on", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Form");
  await left.set("gold", "");
  await left.page.locator('#field-gold[aria-invalid="true"]').waitFor();
  await left.set("name", "  ");
  await left.page.locator('#field-name[aria-invalid="true"]').waitFor();
  await left.set("level", 7);
  await left.set("name", "Better");
  await left.page.locator('#field-name:not([aria-invalid])').waitFor();
  await left.page.fill("#field-new-key", "x");
  await left.page.fill('[aria-label="Value of the new field, as JSON"]', "{nonsense");
  await left.page.click("text=Add field");
  await left.page.locator(".hint.error", { hasText: "not JSON" }).waitFor();
  await left.hasUnsent(0);
  const { game } = await wholeRecord(program, id);
  assert.deepEqual([game.gold, game.level, game.name, "x" in game], [100, 7, "Better", false]);
}));

test("an edit that the server refuses is told and taken back", together(async ({ program, ann }) => {
  const left = await ann.open();
  const id = await left.create("Rules");
  await left.hasUnsent(0);
  // Past the page's own check, as another program would.
  await left.page.evaluate(() => (document.querySelector("#field-name").maxLength = 1000));
  await left.set("name", "N".repeat(300));
  await left.page.locator(".toast.error", { hasText: "refused" }).waitFor();
  await left.hasUnsent(0);
  await left.page.locator("#game-title", { hasText: "Rules" }).waitFor();
  const { game } = await wholeRecord(program, id);
  assert.equal(game.name, "Rules");
}));

test("the badge is spoken, and every control has a name", together(async ({ ann }) => {
  const left = await ann.open();
  await left.create("Names");
  assert.deepEqual(
    await left.page.locator("#badge").evaluate((badge) => [badge.getAttribute("role"), badge.getAttribute("aria-live")]),
    ["status", "polite"],
  );
  const nameless = await left.page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, textarea, a[href]")]
      .filter((element) => {
        const label = element.getAttribute("aria-label") ?? element.textContent.trim();
        return label === "" && (element.labels?.length ?? 0) === 0;
      })
      .map((element) => element.outerHTML),
  );
  assert.deepEqual(nameless, []);
}));
