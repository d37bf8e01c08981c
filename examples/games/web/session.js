/** This window's client: who it is, how it decides about conflicts, and what the browser says of the network. @module */

import { adoptOrphans, claimIdentity, ConflictResolver, IndexedDbStore, MemoryStore, SyncClient } from "/client/index.js";

/** What the page lets choose from. */
export const TRANSPORTS = { auto: ["websocket", "sse", "poll"], websocket: ["websocket"], sse: ["sse"], poll: ["poll"] };
export const TRANSPORT_NAMES = { websocket: "WebSocket", sse: "SSE", poll: "long poll" };
export const STRATEGIES = {
  lastWriterWins: "the later edit stands",
  clientWins: "mine stands",
  threeWay: "theirs stands, field by field",
  serverWins: "theirs stands, my whole edit yields",
  custom: "the higher number stands",
};

/** The application's own rule, as an example: numbers only grow, anything else goes to the server. */
const higherNumber = () =>
  ConflictResolver.threeWay(({ local, remote }) =>
    typeof local === "number" && typeof remote === "number" ? { value: Math.max(local, remote) } : "remote",
  );

/** @param {string} strategy */
export const resolverOf = (strategy) =>
  strategy === "custom" ? higherNumber() : /** @type {any} */ (ConflictResolver)[strategy]();

/** Settings that a window remembers. Where the browser forbids that, they last as long as the page. */
export const settings = {
  /** @param {string} name @param {string} otherwise */
  get(name, otherwise) {
    try {
      return localStorage.getItem(`weft-${name}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  /** @param {string} name @param {string} value */
  set(name, value) {
    try {
      localStorage.setItem(`weft-${name}`, value);
    } catch {
      // Private windows may refuse; nothing depends on it.
    }
  },
};

/**
 * Where the server asks who it is, the page is opened with a token once, as `#token=…`, and the browser keeps it.
 *
 * @returns {string | undefined}
 */
function takeToken() {
  const given = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (given !== undefined) {
    settings.set("token", given);
    // Out of the address, which people copy.
    history.replaceState(null, "", location.pathname);
  }
  return settings.get("token", "") || undefined;
}

const token = takeToken();

/** Who the token says it is, without checking: that is the server's. */
function nameOf(/** @type {string | undefined} */ token) {
  if (token === undefined) return undefined;
  try {
    const claims = atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(claims, (c) => c.charCodeAt(0)))).sub;
  } catch {
    return undefined;
  }
}

/** What requests of the page beside the client show. @returns {Record<string, string>} */
export const authorization = () => (token === undefined ? {} : { authorization: `Bearer ${token}` });

/** Makes this window's client, with what an earlier window left unsent. It is not connected yet. */
export async function startSession() {
  const { store, clientId, isKept } = await openStore();
  const client = makeClient(store, clientId);
  await client.restore();
  addEventListener("online", () => client.setNetwork(true));
  addEventListener("offline", () => client.setNetwork(false));
  // Coming back from the background, where timers hardly run, there is no time to wait for one.
  addEventListener("visibilitychange", () => document.visibilityState === "visible" && navigator.onLine && client.setNetwork(true));
  addEventListener("pagehide", () => void client.saved().catch(() => {}));
  if (!navigator.onLine) client.setNetwork(false);
  return { client, store, isKept };
}

async function openStore() {
  try {
    const store = new IndexedDbStore();
    return { store, clientId: await claimIdentity(store, nameOf(token)), isKept: true };
  } catch {
    // No IndexedDB here: edits are kept while the page is open.
    const store = new MemoryStore();
    return { store, clientId: await claimIdentity(store, nameOf(token)), isKept: false };
  }
}

/** @param {any} store @param {string} clientId */
function makeClient(store, clientId) {
  return new SyncClient({
    url: location.origin,
    clientId,
    store,
    token,
    transports: /** @type {any} */ (TRANSPORTS)[settings.get("transport", "auto")] ?? TRANSPORTS.auto,
    resolver: resolverOf(settings.get("strategy", "lastWriterWins")),
  });
}

/** Sends what windows that are gone could not send, each under its own id. @param {any} store */
export function sendOrphans(store) {
  return adoptOrphans(store, async (clientId) => {
    const client = makeClient(store, clientId);
    await client.restore();
    const sent = new Promise((resolve) => client.on("status", ({ unsent }) => unsent === 0 && resolve(undefined)));
    client.connect();
    await sent;
    await client.saved();
    client.disconnect();
  }, nameOf(token));
}
