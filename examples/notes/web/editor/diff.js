/** What one input event changed. @module */

/**
 * The one place where two texts differ, told by what typing leaves: the caret stands at the end of what was put in.
 *
 * @param {string} before
 * @param {string} after
 * @param {number} caret where the caret is in `after`
 * @returns {{ at: number, deleted: number, inserted: string } | undefined}
 */
export function difference(before, after, caret) {
  if (before === after) return undefined;
  const shorter = Math.min(before.length, after.length);
  // What is behind the caret was not typed: so much of the end is the same, at most.
  let tail = 0;
  const tailMax = Math.min(shorter, after.length - caret);
  while (tail < tailMax && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  let head = 0;
  while (head < shorter - tail && before[head] === after[head]) head++;
  while (tail < shorter - head && before[before.length - 1 - tail] === after[after.length - 1 - tail]) tail++;
  // Not through the middle of a character.
  if (head > 0 && isHigh(before, head - 1) && (isLow(before, head) || isLow(after, head))) head--;
  if (tail > 0 && isLow(before, before.length - tail) && (isHigh(before, before.length - tail - 1) || isHigh(after, after.length - tail - 1))) tail--;
  return { at: head, deleted: before.length - head - tail, inserted: after.slice(head, after.length - tail) };
}

/** @param {string} text @param {number} at */
const isHigh = (text, at) => (text.charCodeAt(at) & 0xfc00) === 0xd800;
/** @param {string} text @param {number} at */
const isLow = (text, at) => (text.charCodeAt(at) & 0xfc00) === 0xdc00;
