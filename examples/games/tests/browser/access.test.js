import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { together, wholeRecord } from "./harness.js";

const folder = mkdtempSync(join(tmpdir(), "weft-games-"));
after(() => rmSync(folder, { recursive: true }));
const secret = join(folder, "secret");
writeFileSync(secret, "nobody guesses these forty characters ab\n");

/** @param {string} name */
const tokenOf = (name) =>
  execFileSync(process.env.WEFT_GAMES_BIN, ["--jwt-secret", secret, "--make-token", name], { encoding: "utf8" }).trim();

for (const transport of ["websocket", "sse", "poll"]) {
  test(`those with tokens play as ever, each under their name (${transport})`, together(async ({ program, ann, bo }) => {
    program.headers = { authorization: `Bearer ${tokenOf("judge")}` };
    const left = await ann.open({ transport, path: `/#token=${tokenOf("ann")}` });
    const right = await bo.open({ transport, path: `/#token=${tokenOf("bo")}` });
    for (const window of [left, right]) await window.is("live", transport);
    assert.ok(!left.page.url().includes("token"), "an address that people copy");
    const id = await left.create("Reversi");
    await right.openGame("Reversi");
    await right.set("gold", 250);
    await left.shows("gold", 250);
    // The browser has kept the token.
    await left.page.reload();
    await left.is("live", transport);
    await left.set("gold", 300);
    await right.shows("gold", 300);
    for (const window of [left, right]) await window.hasUnsent(0);
    const { events } = await wholeRecord(program, id);
    const authors = new Set(events.map(({ clientId }) => clientId.split("/")[0]));
    assert.deepEqual([...authors].sort(), ["ann", "bo"]);
  }, ["--jwt-secret", secret]));
}

test("without a token the page says what is missing, and takes it up when it has one", together(async ({ program, ann }) => {
  assert.equal((await program.get("/api/games")).status, 401);
  const window = await ann.open();
  await window.page.locator("text=a bearer token is needed").first().waitFor();
  await window.page.goto(`http://127.0.0.1:${new URL(window.page.url()).port}/#token=${tokenOf("ann")}`);
  await window.page.reload();
  await window.is("live", "websocket");
  await window.create("Go");
  await window.hasUnsent(0);
  // The browser logs each answer that is no success.
  const others = ann.profile.errors.filter((text) => !text.includes("401"));
  assert.deepEqual(others, []);
  ann.profile.errors.length = 0;
}, ["--jwt-secret", secret]));
