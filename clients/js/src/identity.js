/**
 * Who this client is. A client id counts its writes, so no two running clients may share one; and writes that an
 * earlier run could not send belong to its id, so some later client must take that id up again.
 *
 * @module
 */

/** @typedef {import("./stores/memory.js").Store} Store */

/**
 * An id that nobody has, readable enough for a log.
 *
 * @param {string} [name] who the server knows the client as; then its ids begin with it
 */
export function newClientId(name) {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  const id = `c-${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_")}`;
  return name === undefined ? id : `${name}/${id}`;
}

/**
 * Whether a client id is one of that name. What is after the name has no slash, whatever the name has.
 *
 * @param {string} clientId
 * @param {string | undefined} name
 */
const isOf = (clientId, name) => clientId.slice(0, Math.max(0, clientId.lastIndexOf("/"))) === (name ?? "");

/**
 * Claims an id for this page: one that has unsent or held writes in the store and is not in use, or a new one. It is held
 * until the page is gone, however it goes, by a Web Lock. Where there are no Web Locks (pages that came over plain
 * HTTP from another machine), every page gets a new id, and writes that it could not send while it was open stay
 * behind.
 *
 * @param {Store} store
 * @param {string} [name] who the server knows the client as, if it asks
 * @returns {Promise<string>}
 */
export async function claimIdentity(store, name) {
  const known = (await store.clients()).filter(({ clientId }) => isOf(clientId, name));
  // Those with unsent writes first, then those with held ones: somebody waits for them.
  known.sort((a, b) => b.unsent - a.unsent || b.held - a.held);
  for (const { clientId } of known) {
    if (await claim(clientId)) return clientId;
  }
  const clientId = newClientId(name);
  await claim(clientId);
  return clientId;
}

/**
 * Claims each id that has unsent writes and is not in use, one after the other, and lets `send` deal with it.
 *
 * @param {Store} store
 * @param {(clientId: string) => Promise<void>} send resolves when they are sent
 * @param {string} [name] who the server knows the client as, if it asks
 */
export async function adoptOrphans(store, send, name) {
  for (const { clientId, unsent } of await store.clients()) {
    if (unsent > 0 && isOf(clientId, name) && (await claim(clientId))) await send(clientId);
  }
}

/**
 * @param {string} clientId
 * @returns {Promise<boolean>} whether it is ours now
 */
function claim(clientId) {
  if (!navigator.locks) return Promise.resolve(false);
  return new Promise((resolve) => {
    const held = navigator.locks.request(`weft-client-${clientId}`, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      // The lock is held as long as this promise is pending: for ever.
      return lock === null ? undefined : new Promise(() => {});
    });
    // A page that may keep nothing gets no locks either.
    held.catch(() => resolve(false));
  });
}
