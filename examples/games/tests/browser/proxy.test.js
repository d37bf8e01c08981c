import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SyncClient } from "../../../../clients/js/src/index.js";
import { FileStore } from "../../../../clients/js/src/stores/file.js";
import { wholeRecord } from "./harness.js";
import { Program } from "./program.js";
import { Proxy } from "./proxy.js";

/** Waits for an event of a client after which something holds. */
const until = (client, condition) =>
  new Promise((resolve) => {
    const stops = [];
    const look = () => condition() && (stops.forEach((stop) => stop()), resolve());
    for (const type of ["status", "change", "refused", "error"]) stops.push(client.on(type, look));
    look();
  });

/** Runs a test with a program behind a proxy, and a client before it that keeps what it has in a folder. */
function behind(transport, body) {
  return async () => {
    const program = await Program.start();
    const proxy = await Proxy.start(() => program.port);
    const folder = await mkdtemp(join(tmpdir(), "weft-proxy-"));
    const clients = [];
    const start = async () => {
      const client = new SyncClient({ url: proxy.address, clientId: "node", store: new FileStore(folder), transports: [transport] });
      clients.push(client);
      client.told = { refused: [], error: [] };
      for (const type of ["refused", "error"]) client.on(type, (event) => client.told[type].push(event));
      await client.restore();
      client.connect();
      return client;
    };
    try {
      await body({ program, proxy, start });
    } finally {
      for (const client of clients) client.disconnect();
      await Promise.all(clients.map((client) => client.saved()));
      await proxy.stop();
      await program.stop();
      await rm(folder, { recursive: true, force: true });
    }
  };
}

for (const transport of ["sse", "poll"]) {
  test(`an edit that a proxy finds too large is kept and told once, and the others get through (${transport})`, behind(transport, async ({ program, proxy, start }) => {
    proxy.answer = (body) => (body.length > 10_000 ? { status: 413 } : undefined);
    const client = await start();
    await client.write("g", () => ({ name: "Go", gold: 0 }));
    await until(client, () => client.document("g").version === 1);
    const notes = "n".repeat(20_000);
    await client.write("g", (state) => ({ ...state, notes }));
    await client.write("g", (state) => ({ ...state, gold: 1 }));
    await client.write("h", () => ({ name: "Halma" }));
    await until(client, () => client.unsent === 0 && client.held.length === 1 && client.document("h").version === 1);
    assert.deepEqual((await program.get("/api/games/g")).body, { id: "g", version: 2, state: { name: "Go", gold: 1 } });
    assert.deepEqual(client.told.refused.map(({ documentId, problem }) => [documentId, problem.status]), [["g", 413]]);
    client.disconnect();
    await client.saved();

    // The next start has it, and does not tell it again; once the way is wider it goes.
    const next = await start();
    assert.equal(next.held[0].after.notes, notes);
    await next.write("g", (state) => ({ ...state, gold: 2 }));
    proxy.answer = () => undefined;
    await next.sendHeld("g", next.held[0].id);
    await until(next, () => next.unsent === 0 && next.document("g").view.notes === notes && next.document("g").pending.length === 0);
    const { body } = await program.get("/api/games/g");
    assert.deepEqual([body.state, body.version], [{ name: "Go", gold: 2, notes }, 4]);
    assert.deepEqual([next.held, next.told.refused], [[], []]);
  }));

  test(`an edit larger than the server takes is kept and told once, and the others get through (${transport})`, behind(transport, async ({ program, proxy, start }) => {
    const client = await start();
    await client.write("g", () => ({ name: "Go", notes: "n".repeat(2 << 20) }));
    await client.write("h", () => ({ name: "Halma" }));
    await until(client, () => client.unsent === 0 && client.held.length === 1 && client.document("h").version === 1);
    assert.equal((await program.get("/api/games/g")).status, 404);
    assert.match(client.told.refused[0].problem.detail, /the server takes at most 1048576/);
    assert.equal(proxy.pushes, 1);
    await client.dropHeld("g", client.held[0].id);
    assert.deepEqual(client.held, []);
  }));
}

const ANSWERS = {
  "502 page": { status: 502 },
  "503 page": { status: 503, headers: { "retry-after": "1" } },
  "504 page": { status: 504 },
  "403 page": { status: 403 },
  "403 in JSON": { status: 403, headers: { "content-type": "application/json" }, body: '{"message":"Forbidden"}' },
  "login page": { status: 200 },
  "login in JSON": { status: 200, headers: { "content-type": "application/json" }, body: '{"login":"required"}' },
  "redirect that keeps the method": { status: 307, headers: { location: "http://127.0.0.1:1/login" } },
  "redirect that drops the method": { status: 302, headers: { location: "/" } },
  "404 page": { status: 404 },
  "401 page": { status: 401 },
  "422 page": { status: 422 },
};

for (const [name, answer] of Object.entries(ANSWERS)) {
  test(`what a proxy answers decides nothing: ${name}`, behind("poll", async ({ program, proxy, start }) => {
    const client = await start();
    await client.write("g", () => ({ name: "Go", gold: 0 }));
    await until(client, () => client.document("g").version === 1);
    let answered = 0;
    proxy.answer = (body) => (JSON.parse(body).documentId === "g" && answered++ < 1 ? answer : undefined);
    await client.write("g", (state) => ({ ...state, gold: 1 }));
    await client.write("h", () => ({ name: "Halma" }));
    await until(client, () => client.document("h")?.version === 1);
    // Nothing else happened to the connection.
    assert.equal(client.status, "live");
    await until(client, () => client.document("g").version === 2);
    assert.deepEqual((await program.get("/api/games/g")).body.state, { name: "Go", gold: 1 });
    assert.deepEqual([client.held, client.told], [[], { refused: [], error: [] }]);
    assert.ok(answered >= 2);
    await wholeRecord(program, "g");
  }));
}
