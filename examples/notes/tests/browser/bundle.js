/**
 * Makes `web/vendor/json-joy.js` and the licences beside it from the packages of the lock file: `npm ci && npm run
 * bundle`. The result is in the tree, so that the program builds without npm; a test makes it again and compares.
 */

import { readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
export const VENDOR = fileURLToPath(new URL("../../web/vendor/", import.meta.url));

/** What the page uses of json-joy. */
const ENTRY = `
  export { Model } from "json-joy/esm/json-crdt/model/index.js";
  export { Patch } from "json-joy/esm/json-crdt-patch/Patch.js";
`;

const BANNER = "/* json-joy 17.67.0 by its authors, Apache License 2.0, bundled and minified without changes: see json-joy.licences.txt */";

const INTRODUCTION = `json-joy.js contains these packages, bundled and minified without changes by
examples/notes/tests/browser/bundle.js. Each licence stands below those it is of.
`;

/** The files of the vendor folder, by name. @returns {Promise<Record<string, string>>} */
export async function bundle() {
  const { outputFiles, metafile } = await build({
    stdin: { contents: ENTRY, resolveDir: HERE, sourcefile: "entry.js" },
    absWorkingDir: HERE,
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    legalComments: "inline",
    charset: "utf8",
    banner: { js: BANNER },
    metafile: true,
    write: false,
  });
  const inputs = Object.keys(metafile.inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
  const packages = [...new Set(inputs.filter((name) => name !== undefined))].sort();
  return { "json-joy.js": outputFiles[0].text, "json-joy.licences.txt": await licences(packages) };
}

/** Who made what is in there, and each licence once. @param {string[]} packages */
async function licences(packages) {
  /** @type {Map<string, string[]>} */
  const byText = new Map();
  for (const name of packages) {
    const folder = join(HERE, "node_modules", name);
    const { version, license, author, repository } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? (await readFile(join(folder, file), "utf8")).replaceAll("\r\n", "\n").trim() : "(No licence file in the package.)";
    const by = typeof author === "string" ? author : author?.name;
    const from = typeof repository === "string" ? repository : repository?.url;
    const line = [`${name} ${version}, ${license}`, by && `by ${by}`, from].filter(Boolean).join(", ");
    byText.set(text, [...(byText.get(text) ?? []), line]);
  }
  const rule = "=".repeat(78);
  const parts = [...byText].map(([text, lines]) => `${rule}\n${lines.join("\n")}\n${rule}\n\n${text}\n`);
  return `${INTRODUCTION}\n${parts.join("\n")}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, text] of Object.entries(await bundle())) {
    await writeFile(join(VENDOR, name), text);
    console.log(`${name}: ${Buffer.byteLength(text)} bytes`);
  }
}
