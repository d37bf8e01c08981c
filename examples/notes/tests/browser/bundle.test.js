import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { bundle, VENDOR } from "./bundle.js";

test("the bundle in the tree is what the lock file makes", async () => {
  const made = await bundle();
  assert.deepEqual((await readdir(VENDOR)).sort(), Object.keys(made).sort());
  for (const [name, text] of Object.entries(made)) {
    assert.ok((await readFile(join(VENDOR, name), "utf8")) === text, `${name} is another one: npm run bundle`);
  }
});

test("the licence of everything that is in the bundle stands beside it", async () => {
  const { "json-joy.licences.txt": licences } = await bundle();
  for (const words of ["json-joy 17.67.0, Apache-2.0, by streamich", "Apache License", "tslib", "MIT"]) {
    assert.ok(licences.includes(words), words);
  }
});
