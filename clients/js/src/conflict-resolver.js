/**
 * What becomes of a write that was made on a state which others have changed since.
 *
 * @module
 */

import { merge } from "./merge.js";

/** @typedef {import("./json.js").Json} Json */
/** @typedef {import("./merge.js").Clash} Clash */

/** A concurrent change, as the resolver sees it. A state is the document's body, or `null` for "absent".
 *
 * @typedef {object} Concurrent
 * @property {string} documentId
 * @property {Json} base the state that the local write was made on
 * @property {Json} local what the local write made of it
 * @property {Json} remote what others made of it
 * @property {number} localTimeMs when the local write was made
 * @property {number} remoteTimeMs when the latest change of the others was committed
 */

/** A {@link Clash} and what was done about it.
 *
 * @typedef {Clash & { kept: "local" | "remote" | "merged" }} Conflict
 */

/** @typedef {{ value: Json, conflicts: Conflict[] }} Resolution */

/** @typedef {(concurrent: Concurrent) => Resolution} Strategy */

/**
 * Decides about concurrent edits. Edits that do not touch the same thing always both stand; the strategy decides
 * where they clash:
 *
 * - `serverWins`: the whole local write yields if any part of it clashes.
 * - `clientWins`: the local value stands at each clash.
 * - `lastWriterWins`: the later of the two stands at each clash, by the time they were made; the server's on a tie.
 * - `threeWay(decide)`: each clash is decided on its own; without `decide` the server's value stands.
 * - `custom(resolve)`: the application's own function.
 */
export class ConflictResolver {
  /** @param {Strategy} strategy */
  constructor(strategy) {
    this.resolve = strategy;
  }

  static serverWins() {
    return new ConflictResolver((concurrent) => {
      const { value, conflicts } = mergeWith(concurrent, () => "remote");
      return { value: conflicts.length > 0 ? concurrent.remote : value, conflicts };
    });
  }

  static clientWins() {
    return new ConflictResolver((concurrent) => mergeWith(concurrent, () => "local"));
  }

  static lastWriterWins() {
    return new ConflictResolver((concurrent) =>
      mergeWith(concurrent, () => (concurrent.localTimeMs > concurrent.remoteTimeMs ? "local" : "remote")),
    );
  }

  /** @param {(clash: Clash, concurrent: Concurrent) => "local" | "remote" | { value: Json }} [decide] */
  static threeWay(decide = () => "remote") {
    return new ConflictResolver((concurrent) => mergeWith(concurrent, (clash) => decide(clash, concurrent)));
  }

  /** @param {Strategy} resolve */
  static custom(resolve) {
    return new ConflictResolver(resolve);
  }
}

/**
 * @param {Concurrent} concurrent
 * @param {(clash: Clash) => "local" | "remote" | { value: Json }} decide
 * @returns {Resolution}
 */
function mergeWith({ base, local, remote }, decide) {
  /** @type {Conflict[]} */
  const conflicts = [];
  const value = merge(base, local, remote, (clash) => {
    const decision = decide(clash);
    if (typeof decision === "object") {
      conflicts.push({ ...clash, kept: "merged" });
      return decision.value;
    }
    conflicts.push({ ...clash, kept: decision });
    return clash[decision];
  });
  return { value: value ?? null, conflicts };
}
