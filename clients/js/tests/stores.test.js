import assert from "node:assert/strict";
import { readlinkSync } from "node:fs";
import { mkdtemp, open, readdir, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FileStore } from "../src/stores/file.js";
import { MemoryStore } from "../src/stores/memory.js";

const record = (documentId, version, pending = []) => ({ documentId, version, state: { gold: version }, stateVector: { ann: version }, pending });
const byId = (records) => records.toSorted((a, b) => (a.documentId < b.documentId ? -1 : 1));

/** What every store owes. `again` opens the same place anew. */
async function conforms(store, again) {
  assert.deepEqual(await store.load("me"), []);
  await store.put("me", record("a", 1));
  await store.put("me", record("b", 1, [{ after: null, madeAtMs: 1 }]));
  await store.put("me", record("a", 2));
  await store.put("../__proto__ %2f", record("a", 9));
  for (const reader of [store, again()]) {
    assert.deepEqual(byId(await reader.load("me")), [record("a", 2), record("b", 1, [{ after: null, madeAtMs: 1 }])]);
    assert.deepEqual(await reader.load("../__proto__ %2f"), [record("a", 9)]);
    const clients = (await reader.clients()).toSorted((a, b) => a.unsent - b.unsent);
    assert.deepEqual(clients, [{ clientId: "../__proto__ %2f", unsent: 0, held: 0 }, { clientId: "me", unsent: 1, held: 0 }]);
  }
  await store.delete("me", "b");
  assert.deepEqual(await again().load("me"), [record("a", 2)]);
}

test("a store in memory gives back what it was given", async () => {
  const store = new MemoryStore();
  await conforms(store, () => store);
});

test("a store in files gives back what it was given, also to the next process", async () => {
  const folder = await mkdtemp(join(tmpdir(), "weft-store-"));
  try {
    await conforms(new FileStore(folder), () => new FileStore(folder));
    const store = new FileStore(folder);
    await Promise.all(Array.from({ length: 50 }, (_, i) => store.put("busy", record("a", i + 1))));
    assert.deepEqual(await new FileStore(folder).load("busy"), [record("a", 50)]);
    assert.deepEqual((await readdir(folder)).filter((name) => !name.endsWith(".json")), []);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("what is in a file is durable by its name, and so are the folders that were made for it", { skip: process.platform !== "linux" }, async () => {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "weft-store-")));
  const file = await open(folder);
  const FileHandle = Object.getPrototypeOf(file);
  await file.close();
  const { sync } = FileHandle;
  /** @type {string[]} */
  const synced = [];
  FileHandle.sync = function () {
    synced.push(readlinkSync(`/proc/self/fd/${this.fd}`).slice(folder.length));
    return sync.call(this);
  };
  try {
    const store = new FileStore(join(folder, "a", "b"));
    await store.put("me", record("a", 1));
    assert.deepEqual(synced.splice(0), ["/a/b/me.json.new", "/a/b", "/a", ""]);
    await store.put("me", record("a", 2));
    assert.deepEqual(synced, ["/a/b/me.json.new", "/a/b"]);
  } finally {
    FileHandle.sync = sync;
    await rm(folder, { recursive: true });
  }
});
