/** What each test starts from: a program, and two people at two computers, each with a cable of its own. */

import assert from "node:assert/strict";
import { Profile } from "./browser.js";
import { Cable } from "./cable.js";
import { Program } from "./program.js";

/**
 * Runs a test with its own program and browsers, and takes everything down again. A test fails when a page logged an
 * error.
 *
 * @param {(parts: { program: Program, ann: Person, bo: Person }) => Promise<void>} body
 * @param {string[]} [more] further arguments of the program
 */
export function together(body, more) {
  return async () => {
    const program = await Program.start(more);
    /** @type {Person[]} */
    const people = [];
    try {
      for (let i = 0; i < 2; i++) people.push(await Person.sitDown(program));
      const [ann, bo] = people;
      await body({ program, ann, bo });
      for (const { profile } of people) assert.deepEqual(profile.unexpectedErrors, []);
    } finally {
      for (const person of people) await person.leave();
      await program.stop();
    }
  };
}

export class Person {
  /** @param {Program} program */
  static async sitDown(program) {
    const person = new Person();
    person.cable = await Cable.lay(() => program.port);
    person.profile = await Profile.open();
    return person;
  }

  /** Opens a window. @param {{ transport?: string, path?: string }} [options] */
  async open(options) {
    return this.profile.window(this.cable.address, options);
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

/**
 * Asserts that the server's record of a game is whole: events 1 … n without a gap, each client's writes 1 … m once.
 * Returns the game and its events.
 *
 * @param {Program} program
 * @param {string} id
 */
export async function wholeRecord(program, id) {
  const path = encodeURIComponent(id);
  const { body: page } = await program.get(`/api/events/${path}?after=0`);
  const { body: vectors } = await program.get(`/api/state-vectors/${path}`);
  page.events.forEach((event, i) => assert.equal(event.sequenceNum, i + 1));
  // A client may have any name.
  const counted = Object.create(null);
  for (const { clientId, clientSeq } of page.events) {
    assert.equal(clientSeq, (counted[clientId] ?? 0) + 1, `${clientId} in ${JSON.stringify(page.events)}`);
    counted[clientId] = clientSeq;
  }
  assert.deepEqual(Object.entries(vectors.stateVector).sort(), Object.entries(counted).sort());
  const { status, body: game } = await program.get(`/api/games/${path}`);
  if (status === 200) assert.equal(game.version, page.events.length);
  return { game: status === 200 ? game.state : null, events: page.events };
}
