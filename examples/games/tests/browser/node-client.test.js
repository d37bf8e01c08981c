import assert from "node:assert/strict";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SyncClient } from "../../../../clients/js/src/index.js";
import { FileStore } from "../../../../clients/js/src/stores/file.js";
import { Program } from "./program.js";

const until = (client, type, wanted) =>
  new Promise((resolve) => {
    const stop = client.on(type, (event) => wanted(event) && (stop(), resolve(event)));
  });

/** Until the client has the event of its own first write: an answer alone leaves the write pending over a crash. */
const firstWriteBack = async (client) => {
  while ((client.document("g").stateVector.node ?? 0) < 1) await until(client, "event", () => true);
};

for (const transport of ["sse", "poll"]) {
  test(`a program in Node keeps its writes in a file over crashes, its own and the server's (${transport})`, async () => {
    const program = await Program.start();
    const folder = await mkdtemp(join(tmpdir(), "weft-node-"));
    const make = (onEvent) =>
      new SyncClient({ url: `http://${program.address}`, clientId: "node", store: new FileStore(folder), transports: [transport], onEvent });
    const clients = [];
    try {
      const first = make();
      clients.push(first);
      first.connect();
      await first.write("g", () => ({ name: "Node", gold: 0 }));
      await firstWriteBack(first);
      await program.kill();
      for (let gold = 1; gold <= 5; gold++) await first.write("g", (state) => ({ ...state, gold }));
      assert.equal(first.unsent, 5);
      // The process is gone without a word; what it had been promised is in the file.
      first.disconnect();
      const seen = [];
      const second = make((event) => seen.push(event.sequenceNum));
      clients.push(second);
      assert.deepEqual(await second.restore(), ["g"]);
      assert.deepEqual([second.unsent, second.document("g").view.gold], [5, 5]);
      await program.restart();
      second.connect();
      await until(second, "event", ({ event }) => event.sequenceNum === 6);
      assert.deepEqual((await program.get("/api/games/g")).body, { id: "g", version: 6, state: { name: "Node", gold: 5 } });
      assert.deepEqual(seen, [2, 3, 4, 5, 6]);
      assert.deepEqual({ ...second.document("g").stateVector }, { node: 6 });
      assert.equal(await second.syncState(), 0);
      second.disconnect();
      await second.saved();
    } finally {
      for (const client of clients) client.disconnect();
      await program.stop();
      await rm(folder, { recursive: true, force: true });
    }
  });
}

for (const transport of ["sse", "poll"]) {
  test(`a backup that was put back and written on is noticed, and unsent edits are kept (${transport})`, async () => {
    const program = await Program.start();
    const backup = await mkdtemp(join(tmpdir(), "weft-backup-"));
    const client = new SyncClient({ url: `http://${program.address}`, clientId: "node", transports: [transport] });
    const has = async (version) => {
      while (client.document("g").version < version) await until(client, "event", () => true);
    };
    try {
      client.connect();
      await client.write("g", () => ({ name: "Go", kept: 1 }));
      await has(1);
      await program.kill();
      await cp(program.folder, backup, { recursive: true });
      await program.restart();
      for (let lost = 1; lost <= 3; lost++) await client.write("g", (state) => ({ ...state, lost }));
      await has(4);
      client.disconnect();
      await client.write("g", (state) => ({ ...state, unsent: 7 }));

      await program.kill();
      await rm(program.folder, { recursive: true });
      await cp(backup, program.folder, { recursive: true });
      await program.restart();
      for (let since = 1; since <= 6; since++) {
        const headers = { "content-type": "application/merge-patch+json" };
        const body = JSON.stringify({ since });
        const response = await fetch(`http://${program.address}/api/games/g`, { method: "PATCH", headers, body });
        assert.equal((await response.json()).version, 1 + since);
      }
      client.connect();
      await has(8);
      const state = { name: "Go", kept: 1, since: 6, unsent: 7 };
      assert.deepEqual((await program.get("/api/games/g")).body, { id: "g", version: 8, state });
      assert.deepEqual(client.document("g").view, state);
    } finally {
      client.disconnect();
      await program.stop();
      await rm(backup, { recursive: true, force: true });
    }
  });
}
