/** What each test starts from: a program, and two people at two computers, each with a cable of its own. */

import assert from "node:assert/strict";
import { Profile, WAIT_MS } from "../../../games/tests/browser/browser.js";
import { Cable } from "../../../games/tests/browser/cable.js";
import { Program } from "./program.js";

export { WAIT_MS };

/** Where a browser keeps the document of the tests. */
export const KEPT_AT = "weft-notes-demo";

/**
 * Runs a test with its own program and browsers, and takes everything down again. A test fails when a page logged an
 * error.
 *
 * @param {(parts: { program: Program, ann: Person, bo: Person }) => Promise<void>} body
 */
export function together(body, { mobile = false } = {}) {
  return async () => {
    const program = await Program.start();
    /** @type {Person[]} */
    const people = [];
    try {
      for (let i = 0; i < 2; i++) people.push(await Person.sitDown(() => program.port, mobile));
      const [ann, bo] = people;
      await body({ program, ann, bo });
      for (const { profile } of people) assert.deepEqual(profile.unexpectedErrors, []);
    } finally {
      for (const person of people) await person.leave();
      await program.stop();
    }
  };
}

/** What two type at once around a bar, and what is there afterwards if nothing is lost and nothing comes twice. */
export async function typeAtOnce(left, right) {
  const [before, after] = ["aaaaaaaaaabbbbbbbbbbcccccccccc", "ddddddddddeeeeeeeeeeffffffffff"];
  await left.type("|");
  await right.shows("|");
  await left.select(0);
  await right.select(1);
  const typed = Promise.all([left.type(before), right.type(after)]);
  await left.page.waitForFunction(() => document.getElementById("text").value.length > 20);
  return { typed, whole: `${before}|${after}` };
}

export class Person {
  /** @param {() => number} port */
  static async sitDown(port, mobile = false) {
    const person = new Person();
    person.cable = await Cable.lay(port);
    person.profile = await Profile.open(mobile ? { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true } : {});
    return person;
  }

  /** Opens a window. @param {string} [name] who sits there */
  async open(name) {
    const { page } = await this.profile.window(this.cable.address, { transport: "auto" });
    const window = new Window(page);
    await window.is("live");
    if (name) await window.rename(name);
    return window;
  }

  async unplug() {
    this.cable.cut();
    await this.profile.context.setOffline(true);
  }

  async plugIn() {
    this.cable.mend();
    await this.profile.context.setOffline(false);
  }

  async leave() {
    await this.profile.close();
    await this.cable.remove();
  }
}

/** One window onto the page, and what a user does in it. */
export class Window {
  constructor(page) {
    this.page = page;
    this.text = page.locator("#text");
    this.title = page.locator("#title");
  }

  /** Waits until the badge says so. @param {string} status */
  async is(status) {
    await this.page.locator(`#badge[data-status="${status}"]`).waitFor();
  }

  /** Waits until so many edits are not known to be durable. @param {number} count */
  async hasUnsent(count) {
    await this.page.locator(`#badge[data-unsent="${count}"]`).waitFor();
  }

  /** @param {string} name */
  async rename(name) {
    await this.page.fill("#name", name);
    await this.page.press("#name", "Tab");
    await this.text.focus();
  }

  /** Types where the caret is, key by key. @param {string} keys */
  async type(keys) {
    await this.text.pressSequentially(keys);
  }

  /** Puts the caret somewhere. @param {number} at @param {number} [end] */
  async select(at, end = at) {
    await this.text.evaluate((element, [from, to]) => {
      element.focus();
      element.setSelectionRange(from, to);
    }, [at, end]);
  }

  /** Where the caret is. */
  async caret() {
    return this.text.evaluate((element) => [element.selectionStart, element.selectionEnd]);
  }

  /** @param {string} wanted */
  async shows(wanted) {
    try {
      await this.page.waitForFunction((text) => document.getElementById("text").value === text, wanted, { timeout: WAIT_MS });
    } catch {
      assert.equal(await this.text.inputValue(), wanted);
    }
  }

  /** Loads the page anew, once its service worker has it for when the node is away. */
  async reload() {
    await this.page.evaluate(async () => (await navigator.serviceWorker.ready).active);
    await this.page.reload();
    await this.is("live");
  }

  /** Waits until the browser keeps a snapshot of what was seen, and no patches beside it. */
  async isFolded() {
    await this.page.waitForFunction(async (name) => {
      const database = await new Promise((resolve, reject) => {
        const request = indexedDB.open(name);
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
      const reading = database.transaction(["log", "snapshots"]);
      const [patches, snapshot] = [reading.objectStore("log").count(), reading.objectStore("snapshots").get(0)];
      await new Promise((resolve) => (reading.oncomplete = resolve));
      database.close();
      return patches.result === 0 && snapshot.result?.vector.size > 0;
    }, KEPT_AT, { timeout: WAIT_MS });
  }

  /** @param {string} wanted */
  async hasTitle(wanted) {
    await this.page.waitForFunction((text) => document.getElementById("title").value === text, wanted, { timeout: WAIT_MS });
  }
}
