/**
 * Makes the picture of the README from the running page: `WEFT_NOTES_BIN=… npm run screenshot`. Two people write, one
 * of them at a terminal; what is seen is a third one's window.
 */

import { stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { together } from "./harness.js";

const PICTURE = process.argv[2] ?? fileURLToPath(new URL("../../../../docs/notes.png", import.meta.url));
const PICTURE_BYTES_MAX = 300_000;

await together(async ({ program, ann, bo }) => {
  const [left, right] = [await ann.open("Ann"), await bo.open("Bo")];
  await left.title.fill("How to warp a loom");
  await left.text.fill(
    "The warp is what stays: long threads, all in order, held tight from one end to the other.\n\n" +
      "The weft is what moves. It goes over and under, turns at the edge and comes back, and each time it passes, the cloth is a little longer.\n\n" +
      "You need:\n  – a frame, about as wide as your arm is long\n  – strong cotton for the warp\n  – any yarn at all for the weft\n\n" +
      "Tie the first thread, wind it around, and do not let go.",
  );
  await left.hasUnsent(0);
  await program.type("name Mina");
  await program.type("at 7:33");
  await right.shows(await left.text.inputValue());
  await right.select(172);
  await left.select(90);
  await left.page.locator('.caret[data-name="Bo"]').waitFor({ state: "attached" });
  await left.page.locator('.caret[data-name="Mina"]').waitFor({ state: "attached" });
  await left.page.setViewportSize({ width: 1280, height: 860 });
  await left.page.screenshot({ path: PICTURE });
  if (process.argv[3]) {
    await left.page.setViewportSize({ width: 390, height: 780 });
    await left.page.emulateMedia({ colorScheme: "dark" });
    await left.page.screenshot({ path: process.argv[3] });
  }
})();

const { size } = await stat(PICTURE);
if (size > PICTURE_BYTES_MAX) throw new Error(`the picture has ${size} bytes, at most ${PICTURE_BYTES_MAX} are wanted`);
console.log(`${PICTURE}: ${size} bytes`);
