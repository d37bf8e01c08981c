/** Windows at two programs, which meet over a cluster: what one's windows type, the other's see. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import test from "node:test";
import { Person } from "./harness.js";
import { Program } from "./program.js";

/** A port that is free now. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

test("what is typed at one program is seen at the other, also after that was silent for a while", async () => {
  const place = `spot://127.0.0.1:${await freePort()}`;
  const programs = [await Program.start("--pubsub", place), await Program.start("--pubsub", place)];
  const people = [];
  try {
    for (const program of programs) people.push(await Person.sitDown(() => program.port));
    const [left, right] = [await people[0].open("Ann"), await people[1].open("Bo")];
    await left.type("warp");
    await right.shows("warp");
    await right.select(4);
    await right.type(" and weft");
    await left.shows("warp and weft");
    // Each sees who sits at the other one.
    await left.page.locator('.caret[data-name="Bo"]').waitFor({ state: "attached" });

    // Not closed, not killed: it says nothing and hears nothing, as behind a broken switch.
    programs[1].child.kill("SIGSTOP");
    await left.select(0);
    await left.type("The ");
    await left.hasUnsent(0);
    await right.select(13);
    await right.type("!");
    assert.notEqual(await right.page.getAttribute("#badge", "data-unsent"), "0");
    programs[1].child.kill("SIGCONT");
    const whole = "The warp and weft!";
    await left.shows(whole);
    await right.shows(whole);
    await right.hasUnsent(0);
    for (const program of programs) assert.equal((await program.note()).text, whole);
    for (const { profile } of people) assert.deepEqual(profile.unexpectedErrors, []);
  } finally {
    for (const person of people) await person.leave();
    for (const program of programs) await program.stop();
  }
});
