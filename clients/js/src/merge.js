/**
 * Three-way merge of JSON values: what two sides made of a common base, in one value, and where they disagree.
 *
 * @module
 */

import { changedRange, formatPointer } from "./json-patch.js";
import { equal, isObject, withField } from "./json.js";

/** @typedef {import("./json.js").Json} Json */

/** A clash: both sides changed the same thing, and not to the same value. `undefined` stands for "absent".
 *
 * @typedef {object} Clash
 * @property {string} path where, as a JSON Pointer
 * @property {Json | undefined} base what both started from
 * @property {Json | undefined} local what this side made of it
 * @property {Json | undefined} remote what the other side made of it
 */

/**
 * Merges both sides' changes. Where they clash, `decide` says which value stands.
 *
 * Fields of objects merge one by one. Texts and arrays merge when each side replaced one range of the base and the
 * ranges lie apart; what both put in at the same place stands remote first.
 *
 * @param {Json | undefined} base
 * @param {Json | undefined} local
 * @param {Json | undefined} remote
 * @param {(clash: Clash) => Json | undefined} decide
 * @param {(string | number)[]} [path]
 * @returns {Json | undefined}
 */
export function merge(base, local, remote, decide, path = []) {
  if (same(local, remote) || same(base, local)) return remote;
  if (same(base, remote)) return local;
  if (isObject(base) && isObject(local) && isObject(remote)) {
    return mergeObjects(base, local, remote, decide, path);
  }
  const merged = mergeSequences(base, local, remote);
  return merged === undefined ? decide({ path: formatPointer(path), base, local, remote }) : merged;
}

/**
 * @param {Json | undefined} a
 * @param {Json | undefined} b
 */
const same = (a, b) => equal(a, b);

/**
 * @param {Record<string, Json>} base
 * @param {Record<string, Json>} local
 * @param {Record<string, Json>} remote
 * @param {(clash: Clash) => Json | undefined} decide
 * @param {(string | number)[]} path
 */
function mergeObjects(base, local, remote, decide, path) {
  /** @type {Record<string, Json>} */
  let merged = {};
  for (const key of new Set([...Object.keys(remote), ...Object.keys(local)])) {
    const value = merge(field(base, key), field(local, key), field(remote, key), decide, [...path, key]);
    if (value !== undefined) merged = withField(merged, key, value);
  }
  return merged;
}

/**
 * @param {Record<string, Json>} object
 * @param {string} key
 */
const field = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);

/**
 * @param {Json | undefined} base
 * @param {Json | undefined} local
 * @param {Json | undefined} remote
 * @returns {Json | undefined} `undefined` when they can't be merged
 */
function mergeSequences(base, local, remote) {
  if (typeof base === "string" && typeof local === "string" && typeof remote === "string") {
    // By code points, so that no surrogate pair is torn.
    return mergeRanges([...base], [...local], [...remote], (a, b) => a === b)?.join("");
  }
  if (Array.isArray(base) && Array.isArray(local) && Array.isArray(remote)) {
    return mergeRanges(base, local, remote, equal);
  }
  return undefined;
}

/**
 * @template T
 * @param {T[]} base
 * @param {T[]} local
 * @param {T[]} remote
 * @param {(a: T, b: T) => boolean} sameItem
 * @returns {T[] | undefined}
 */
function mergeRanges(base, local, remote, sameItem) {
  const ours = changedRange(base, local, sameItem);
  const theirs = changedRange(base, remote, sameItem);
  const our = local.slice(ours.start, ours.endAfter);
  const their = remote.slice(theirs.start, theirs.endAfter);
  if (theirs.endBefore <= ours.start) {
    return [...base.slice(0, theirs.start), ...their, ...base.slice(theirs.endBefore, ours.start), ...our, ...base.slice(ours.endBefore)];
  }
  if (ours.endBefore <= theirs.start) {
    return [...base.slice(0, ours.start), ...our, ...base.slice(ours.endBefore, theirs.start), ...their, ...base.slice(theirs.endBefore)];
  }
  return undefined;
}
