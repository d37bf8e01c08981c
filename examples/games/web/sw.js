/**
 * Keeps the page itself, so that it opens without the server. What the server has is always asked first: an old page
 * is only for when there is no new one.
 */

const CACHE = "weft-games-1";
const SHELL = ["/"];

/** Answers that may be old when there is no network: the page's files, and the list of games. */
const isKept = (/** @type {URL} */ { pathname }, /** @type {Headers} */ headers) =>
  pathname === "/" || pathname.startsWith("/web/") || pathname.startsWith("/client/") ||
  // What only some may see is not kept for whoever sits here next.
  (pathname === "/api/games" && !headers.has("authorization"));

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => names.filter((name) => name.startsWith("weft-games-") && name !== CACHE));
  event.waitUntil(old.then((names) => Promise.all(names.map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin || !isKept(url, request.headers)) return;
  event.respondWith(serverFirst(request));
});

async function serverFirst(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request);
    if (kept) return kept;
    throw error;
  }
}
