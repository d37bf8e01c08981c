/**
 * Makes the picture of the README from the running page: `WEFT_GAMES_BIN=… npm run screenshot`.
 * Two people play; what is seen is the first one's window.
 */

import { stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { together } from "./harness.js";

const PICTURE = fileURLToPath(new URL("../../../../docs/screenshot.png", import.meta.url));
const PICTURE_BYTES_MAX = 300_000;

await together(async ({ ann, bo }) => {
  const [left, right] = [await ann.open(), await bo.open()];
  for (const [name, status, gold] of [["Chess by mail", "paused", 40], ["Reversi finals", "finished", 980], ["Settlers, Friday", "playing", 310]]) {
    await left.create(name);
    await left.set("status", status);
    await left.set("gold", gold);
    await left.hasUnsent(0);
  }
  await right.openGame("Settlers");
  for (const player of ["Ann", "Bo", "Mina"]) {
    await left.page.fill("#field-players", player);
    await left.page.press("#field-players", "Enter");
  }
  await left.hasUnsent(0);
  await right.set("notes", "Bo builds the longest road.\nMina trades wood for ore.");
  await right.set("level", 4);
  await right.set("experience", 1250);
  await right.hasUnsent(0);
  await left.shows("experience", 1250);
  await left.logShows("experience 0 → 1250");
  await left.page.locator("#game-title").click();
  await left.page.setViewportSize({ width: 1280, height: 940 });
  // Moving things have come to rest.
  await left.page.waitForFunction(() => document.getAnimations().every((animation) => animation.playState !== "running" || animation.effect.getTiming().iterations === Infinity));
  await left.page.screenshot({ path: PICTURE });
})();

const { size } = await stat(PICTURE);
if (size > PICTURE_BYTES_MAX) throw new Error(`the picture has ${size} bytes, at most ${PICTURE_BYTES_MAX} are wanted`);
console.log(`${PICTURE}: ${size} bytes`);
