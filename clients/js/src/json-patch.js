/**
 * JSON Pointer (RFC 6901) and JSON Patch (RFC 6902): `applyPatch` and `diff`.
 *
 * Law: `applyPatch(before, diff(before, after))` equals `after`, and equal values give an empty patch.
 *
 * @module
 */

import { equal, isObject, withField, withoutField } from "./json.js";

/** @typedef {import("./json.js").Json} Json */

/**
 * @typedef {(
 *   | { op: "add" | "replace" | "test", path: string, value: Json }
 *   | { op: "remove", path: string }
 *   | { op: "move" | "copy", from: string, path: string }
 * )} Operation
 */

/** A patch that can't be applied: which operation, and why. The value it was meant for is as it was. */
export class PatchError extends Error {
  /**
   * @param {number} index the place of the operation in its patch
   * @param {string} reason
   */
  constructor(index, reason) {
    super(`operation ${index}: ${reason}`);
    this.name = "PatchError";
    this.index = index;
  }
}

/**
 * The reference tokens of a pointer; `""` is the whole document and has none.
 *
 * @param {string} pointer
 * @returns {string[]}
 */
export function parsePointer(pointer) {
  if (typeof pointer !== "string") throw new SyntaxError("a JSON Pointer is a string");
  if (pointer === "") return [];
  if (pointer[0] !== "/") throw new SyntaxError(`JSON Pointer ${JSON.stringify(pointer)} does not start with "/"`);
  return pointer.slice(1).split("/").map(unescapeToken);
}

/** @param {string} token */
function unescapeToken(token) {
  if (/~(?![01])/.test(token)) throw new SyntaxError(`"~" in ${JSON.stringify(token)} is neither "~0" nor "~1"`);
  return token.replaceAll("~1", "/").replaceAll("~0", "~");
}

/**
 * The pointer of some tokens.
 *
 * @param {(string | number)[]} tokens
 */
export function formatPointer(tokens) {
  return tokens.map((token) => `/${String(token).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * What a pointer points to, or `undefined`.
 *
 * @param {Json} value
 * @param {string} pointer
 * @returns {Json | undefined}
 */
export function valueAt(value, pointer) {
  /** @type {Json | undefined} */
  let at = value;
  for (const token of parsePointer(pointer)) at = child(at, token);
  return at;
}

/**
 * @param {Json | undefined} container
 * @param {string} token
 */
function child(container, token) {
  if (Array.isArray(container)) return isIndex(token) ? container[Number(token)] : undefined;
  return isObject(container) && Object.hasOwn(container, token) ? container[token] : undefined;
}

/** RFC 6901 §4: no sign, no leading zero. */
const isIndex = (/** @type {string} */ token) => /^(0|[1-9][0-9]*)$/.test(token);

/**
 * A value with a patch applied: all of its operations, or, with a {@link PatchError}, none.
 *
 * @param {Json} value
 * @param {Operation[]} patch
 * @returns {Json}
 */
export function applyPatch(value, patch) {
  if (!Array.isArray(patch)) throw new PatchError(0, "a JSON Patch is an array of operations");
  let result = value;
  patch.forEach((operation, index) => {
    try {
      result = applyOperation(result, operation);
    } catch (error) {
      throw new PatchError(index, /** @type {Error} */ (error).message);
    }
  });
  return result;
}

/**
 * @param {Json} value
 * @param {Operation} operation
 * @returns {Json}
 */
function applyOperation(value, operation) {
  if (!isObject(operation)) throw new TypeError("an operation is an object");
  const path = parsePointer(operation.path);
  switch (operation.op) {
    case "add":
      return add(value, path, given(operation));
    case "replace":
      existing(value, path);
      return set(value, path, given(operation));
    case "test":
      if (!equal(existing(value, path), given(operation))) throw new Error(`${show(path)} has another value`);
      return value;
    case "remove":
      existing(value, path);
      return remove(value, path);
    case "move": {
      const from = parsePointer(operation.from);
      const moved = existing(value, from);
      if (from.length < path.length && from.every((token, i) => token === path[i])) {
        throw new Error(`${show(from)} can't move into itself`);
      }
      return add(remove(value, from), path, moved);
    }
    case "copy":
      return add(value, path, existing(value, parsePointer(operation.from)));
    default:
      throw new TypeError(`unknown op ${JSON.stringify(/** @type {any} */ (operation).op)}`);
  }
}

/** @param {any} operation */
function given(operation) {
  if (operation.value === undefined) throw new TypeError(`"${operation.op}" without a value`);
  return operation.value;
}

const show = (/** @type {string[]} */ path) => JSON.stringify(formatPointer(path));

/**
 * @param {Json} value
 * @param {string[]} path
 * @returns {Json}
 */
function existing(value, path) {
  /** @type {Json | undefined} */
  let at = value;
  for (const token of path) at = child(at, token);
  if (at === undefined) throw new Error(`nothing at ${show(path)}`);
  return at;
}

/**
 * Rebuilds the way to `path` with what `change` makes of the container at its end.
 *
 * @param {Json} value
 * @param {string[]} path
 * @param {(container: Json, token: string) => Json} change
 * @param {number} [depth]
 * @returns {Json}
 */
function rebuild(value, path, change, depth = 0) {
  const token = path[depth];
  if (depth === path.length - 1) return change(value, token);
  const below = child(value, token);
  if (below === undefined) throw new Error(`nothing at ${show(path.slice(0, depth + 1))}`);
  const rebuilt = rebuild(below, path, change, depth + 1);
  if (Array.isArray(value)) return value.with(Number(token), rebuilt);
  return withField(/** @type {Record<string, Json>} */ (value), token, rebuilt);
}

/**
 * @param {Json} value
 * @param {string[]} path
 * @param {Json} added
 */
function add(value, path, added) {
  if (path.length === 0) return added;
  return rebuild(value, path, (container, token) => {
    if (Array.isArray(container)) {
      const index = token === "-" ? container.length : isIndex(token) ? Number(token) : NaN;
      if (!(index <= container.length)) throw new Error(`${show(path)} is no place in ${container.length} items`);
      return container.toSpliced(index, 0, added);
    }
    if (isObject(container)) return withField(container, token, added);
    throw new Error(`${show(path)} is below a value that is neither object nor array`);
  });
}

/**
 * @param {Json} value
 * @param {string[]} path
 * @param {Json} replacement
 */
function set(value, path, replacement) {
  if (path.length === 0) return replacement;
  return rebuild(value, path, (container, token) =>
    Array.isArray(container)
      ? container.with(Number(token), replacement)
      : withField(/** @type {Record<string, Json>} */ (container), token, replacement),
  );
}

/**
 * @param {Json} value
 * @param {string[]} path
 */
function remove(value, path) {
  if (path.length === 0) return null;
  return rebuild(value, path, (container, token) =>
    Array.isArray(container)
      ? container.toSpliced(Number(token), 1)
      : withoutField(/** @type {Record<string, Json>} */ (container), token),
  );
}

/**
 * The patch that makes `after` of `before`. Within an array, what both ends have in common stays untouched.
 *
 * @param {Json} before
 * @param {Json} after
 * @returns {Operation[]}
 */
export function diff(before, after) {
  /** @type {Operation[]} */
  const patch = [];
  diffInto(patch, [], before, after);
  return patch;
}

/**
 * @param {Operation[]} patch
 * @param {(string | number)[]} path
 * @param {Json} before
 * @param {Json} after
 */
function diffInto(patch, path, before, after) {
  if (equal(before, after)) return;
  if (isObject(before) && isObject(after)) {
    for (const key of Object.keys(before)) {
      if (!Object.hasOwn(after, key)) patch.push({ op: "remove", path: formatPointer([...path, key]) });
      else diffInto(patch, [...path, key], before[key], after[key]);
    }
    for (const key of Object.keys(after)) {
      if (!Object.hasOwn(before, key)) patch.push({ op: "add", path: formatPointer([...path, key]), value: after[key] });
    }
  } else if (Array.isArray(before) && Array.isArray(after)) {
    diffArray(patch, path, before, after);
  } else {
    patch.push({ op: "replace", path: formatPointer(path), value: after });
  }
}

/**
 * @param {Operation[]} patch
 * @param {(string | number)[]} path
 * @param {Json[]} before
 * @param {Json[]} after
 */
function diffArray(patch, path, before, after) {
  const { start, endBefore, endAfter } = changedRange(before, after, equal);
  const common = Math.min(endBefore, endAfter);
  for (let i = start; i < common; i++) diffInto(patch, [...path, i], before[i], after[i]);
  // From the back, so that each index still means the item it meant in `before`.
  for (let i = endBefore - 1; i >= common; i--) patch.push({ op: "remove", path: formatPointer([...path, i]) });
  for (let i = common; i < endAfter; i++) patch.push({ op: "add", path: formatPointer([...path, i]), value: after[i] });
}

/**
 * The smallest range outside of which two sequences agree: `before[start..endBefore]` became `after[start..endAfter]`.
 *
 * @template T
 * @param {ArrayLike<T>} before
 * @param {ArrayLike<T>} after
 * @param {(a: T, b: T) => boolean} same
 */
export function changedRange(before, after, same) {
  let start = 0;
  let endBefore = before.length;
  let endAfter = after.length;
  while (start < endBefore && start < endAfter && same(before[start], after[start])) start++;
  while (endBefore > start && endAfter > start && same(before[endBefore - 1], after[endAfter - 1])) {
    endBefore--;
    endAfter--;
  }
  return { start, endBefore, endAfter };
}
