/**
 * JSON values, taken as immutable: whoever changes one makes a copy of the way to the change and shares the rest.
 *
 * @module
 */

/** @typedef {null | boolean | number | string | Json[] | { [key: string]: Json }} Json */

/**
 * Whether a value is a JSON object: neither `null` nor an array.
 *
 * @param {unknown} value
 * @returns {value is Record<string, Json>}
 */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Whether two JSON values are equal; the order of an object's fields does not count.
 *
 * @param {Json | undefined} a
 * @param {Json | undefined} b
 * @returns {boolean}
 */
export function equal(a, b) {
  if (a === b) return true;
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length && a.every((item, i) => equal(item, b[i]));
  }
  if (!isObject(a) || !isObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]));
}

/**
 * An object with one field set. A field named `__proto__` is a field like any other.
 *
 * @param {Record<string, Json>} object
 * @param {string} key
 * @param {Json} value
 */
export function withField(object, key, value) {
  // A computed key in a literal defines a field; an assignment to `__proto__` would change the prototype instead.
  return { ...object, [key]: value };
}

/**
 * An object without one field.
 *
 * @param {Record<string, Json>} object
 * @param {string} key
 */
export function withoutField(object, key) {
  return Object.fromEntries(Object.entries(object).filter(([name]) => name !== key));
}
