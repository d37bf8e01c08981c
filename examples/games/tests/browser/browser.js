/** A real browser with windows onto the page. What a window logs as an error fails the test that opened it. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const EXECUTABLE = process.env.WEFT_CHROMIUM ?? "/usr/bin/chromium";
const ARGUMENTS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** How long anything on a page may take to come about. */
export const WAIT_MS = 20_000;

/** A browser profile: windows of one profile share what the browser keeps, as on one computer. */
export class Profile {
  /** @param {object} [options] playwright's options of a context */
  static async open(options = {}) {
    const profile = new Profile();
    profile.folder = await mkdtemp(join(tmpdir(), "weft-browser-"));
    profile.context = await chromium.launchPersistentContext(profile.folder, {
      executablePath: EXECUTABLE,
      args: ARGUMENTS,
      headless: true,
      viewport: { width: 1280, height: 900 },
      ...options,
    });
    profile.context.setDefaultTimeout(WAIT_MS);
    /** @type {string[]} */
    profile.errors = [];
    return profile;
  }

  /**
   * Opens the page in a window of its own.
   *
   * @param {string} address
   * @param {{ transport?: string, path?: string }} [options]
   */
  async window(address, { transport = "websocket", path = "/" } = {}) {
    const page = await this.context.newPage();
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") this.errors.push(message.text());
    });
    page.on("pageerror", (error) => this.errors.push(String(error)));
    await page.goto(address + path);
    // The badge speaks once the page's code runs and listens.
    await page.locator("#badge:not(:empty)").waitFor();
    const window = new Window(page);
    if (transport !== "auto") await page.selectOption("#transport", transport);
    return window;
  }

  /** Errors, without those that the browser logs for each request that a cut cable breaks. */
  get unexpectedErrors() {
    return this.errors.filter((text) => !/net::ERR_|WebSocket connection to .* failed/.test(text));
  }

  async close() {
    await this.context.close();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** One window onto the page, and what a user does in it. */
export class Window {
  constructor(page) {
    this.page = page;
  }

  /** Waits until the badge says so. @param {string} status @param {string} [transport] */
  async is(status, transport) {
    const wanted = transport === undefined ? "" : `[data-transport="${transport}"]`;
    await this.page.locator(`#badge[data-status="${status}"]${wanted}`).waitFor();
  }

  /** Makes a game and returns its id. @param {string} name */
  async create(name) {
    await this.page.click("#create");
    await this.page.waitForURL(/#\/games\//);
    await this.set("name", name);
    return decodeURIComponent(new URL(this.page.url()).hash.replace("#/games/", ""));
  }

  /** @param {string} name */
  async openGame(name) {
    await this.page.locator("#games-list a", { hasText: name }).click();
    await this.page.locator("#game-title", { hasText: name }).waitFor();
  }

  /** Types a value into a field. @param {string} field @param {string | number} value */
  async set(field, value) {
    const control = this.page.locator(`#field-${field}`);
    if ((await control.evaluate((element) => element.tagName)) === "SELECT") await control.selectOption(String(value));
    else {
      await control.fill(String(value));
      await control.blur();
    }
  }

  /** Waits until a field shows a value. @param {string} field @param {string | number} value */
  async shows(field, value) {
    await this.page.waitForFunction(
      ([id, wanted]) => document.getElementById(id)?.value === wanted,
      [`field-${field}`, String(value)],
      { timeout: WAIT_MS },
    );
  }

  /** Waits until the number of edits that the server has not answered is this. @param {number} count */
  async hasUnsent(count) {
    await this.page.locator(`#badge[data-unsent="${count}"]`).waitFor();
  }

  /** @param {string} text */
  async logShows(text) {
    await this.page.locator(".log li", { hasText: text }).first().waitFor();
  }
}
