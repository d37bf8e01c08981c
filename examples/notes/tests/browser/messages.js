/** Pieces of the node's messages, for tests that speak in its place. */

import { encodeState } from "../../web/sync/wire.js";

/** A number as messages have it: here it is cut out of one. @param {number} number @returns {number[]} */
export const varint = (number) => [...encodeState("", new Map([[number, 0]]))].slice(4, -1);
