/**
 * The protocol over plain HTTP, for where WebSockets don't get through: what the client says goes out as requests,
 * what the server says comes in as Server-Sent Events or by long polls, one per subscription.
 *
 * Both speak to the machine in the messages of the WebSocket, so it does not know the difference.
 *
 * @module
 */

import { isKind, isOwn, problemOf } from "../machine/problems.js";
import { readServerSentEvents } from "./server-sent-events.js";

/** @typedef {import("./websocket.js").Listener} Listener */
/** @typedef {import("./websocket.js").Link} Link */

/** How long the server holds a long poll. */
const POLL_WAIT_S = 25;
/** How long a request may take beyond what the server was asked to wait, and what its body takes on a slow way. */
const REQUEST_WAIT_MS = 10_000;
const UPLOAD_BYTES_PER_S_MIN = 16 * 1024;
/** The largest body that a server takes, see docs/formats/eventsync-wire.md. */
const BODY_BYTES_MAX = 1024 * 1024;
/** A stream that is silent for so long is dead; the server sends a comment every 15 s. */
const STREAM_SILENCE_MS = 40_000;
/** How many events one page holds. */
const PAGE_EVENTS = 500;

/** How long it waits at least, and at most, before it reads again what it was refused for reading too much. */
const REFUSED_WAIT_MIN_MS = 100;
const REFUSED_WAIT_MAX_MS = 30_000;

/** @typedef {{ fetch: typeof fetch }} Environment */

/**
 * @param {string} base
 * @param {Listener} listener
 * @param {Environment} environment
 */
export const openServerSentEvents = (base, listener, environment) => new HttpLink(base, listener, environment, follow);

/**
 * @param {string} base
 * @param {Listener} listener
 * @param {Environment} environment
 */
export const openLongPoll = (base, listener, environment) => new HttpLink(base, listener, environment, poll);

/** A problem response, as an error. */
class ProblemError extends Error {
  /** @param {any} problem */
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

/** @typedef {(link: HttpLink, subscription: Subscription) => Promise<void>} Reader follows until it fails or is aborted */

/** @typedef {object} Subscription
 * @property {string} [documentId] without one: the collection
 * @property {any} from a `Resume` of the protocol
 * @property {AbortSignal} signal
 */

class HttpLink {
  /** @type {Map<string | undefined, AbortController>} by document; the collection has no id */
  #subscriptions = new Map();
  #closed = false;
  /** By the server's clock, when it was asked whether it is there; `NaN` if it does not say. */
  #serverTime = NaN;
  #clientId = "";
  /** @type {string | undefined} */
  #token = undefined;

  /**
   * @param {string} base
   * @param {Listener} listener
   * @param {Environment} environment
   * @param {Reader} read
   */
  constructor(base, listener, { fetch }, read) {
    this.base = base;
    this.listener = listener;
    this.fetch = fetch;
    this.read = read;
    this.#try(async () => {
      const alive = await this.request("livez", {});
      this.#serverTime = Date.parse(alive.headers.get("date") ?? "");
      if (!this.#closed) this.listener.opened();
    });
  }

  /** @param {any} message */
  send(message) {
    switch (message.type) {
      case "hello":
        this.#clientId = message.clientId;
        this.#token = message.token;
        this.hear({ type: "welcome", clientId: message.clientId, serverTime: this.#serverTime, limits: { messageBytes: BODY_BYTES_MAX } });
        this.#subscribe(message);
        break;
      case "authenticate":
        this.#token = message.token;
        break;
      case "subscribe":
        this.#subscribe(message);
        break;
      case "unsubscribe":
        for (const documentId of message.documents ?? []) this.#subscriptions.get(documentId)?.abort();
        if (message.collection) this.#subscriptions.get(undefined)?.abort();
        break;
      case "push":
        this.#try(() => this.#push(message));
        break;
    }
  }

  close() {
    this.#closed = true;
    for (const controller of this.#subscriptions.values()) controller.abort();
  }

  /** Tells the machine, unless it has closed this link. @param {any} message */
  hear(message) {
    if (!this.#closed) this.listener.message(message);
  }

  /**
   * Reads something of a subscription. Where that is too much for the server at the moment it is asked again after a
   * while, so that a client that follows many documents does not lose all of them with one.
   *
   * @param {string} path
   * @param {{ waitMs?: number, body?: any, signal: AbortSignal, accept?: string }} options
   * @returns {Promise<Response>} a response in the 200s
   */
  async ask(path, options) {
    for (let refused = 0; ; refused++) {
      try {
        return await this.request(path, options);
      } catch (error) {
        if (!(error instanceof ProblemError) || error.problem.status !== 429) throw error;
        const wait = Math.max(Number(error.problem.retryAfterMs) || 0, REFUSED_WAIT_MIN_MS * 2 ** refused);
        await pause(Math.min(wait, REFUSED_WAIT_MAX_MS), options.signal);
      }
    }
  }

  /**
   * @param {string} path
   * @param {{ waitMs?: number, body?: any, signal?: AbortSignal, accept?: string }} options
   * @returns {Promise<Response>} a response in the 200s
   */
  async request(path, { waitMs = 0, body, signal, accept = "application/json" }) {
    /** @type {Record<string, string>} */
    const headers = { accept };
    if (this.#clientId !== "") headers["weft-client-id"] = this.#clientId;
    if (this.#token) headers.authorization = `Bearer ${this.#token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const deadline = new AbortController();
    const text = body === undefined ? undefined : JSON.stringify(body);
    const uploadMs = ((text?.length ?? 0) / UPLOAD_BYTES_PER_S_MIN) * 1000;
    const timer = setTimeout(() => deadline.abort(), REQUEST_WAIT_MS + waitMs + uploadMs);
    const abort = () => deadline.abort();
    signal?.addEventListener("abort", abort);
    try {
      // Called bare: a browser's `fetch` must not be a method of something else.
      const { fetch } = this;
      const response = await fetch(new URL(path, this.base), {
        method: body === undefined ? "GET" : "POST",
        headers,
        body: text,
        signal: deadline.signal,
        cache: "no-store",
        // A redirect may turn a write into a question, and its answer into another server's.
        redirect: body === undefined ? "follow" : "manual",
      });
      if (!response.ok) throw new ProblemError(await problemOf(response));
      // The body of a stream may take as long as it likes; others are here soon or not at all.
      if (accept !== "text/event-stream") return new Response(await response.text(), { headers: { date: response.headers.get("date") ?? "" } });
      signal?.addEventListener("abort", () => response.body?.cancel().catch(() => {}));
      return response;
    } finally {
      clearTimeout(timer);
      if (accept !== "text/event-stream") signal?.removeEventListener("abort", abort);
    }
  }

  /** @param {any} message */
  #subscribe({ documents = {}, collection }) {
    for (const [documentId, from] of Object.entries(documents)) this.#start(documentId, from);
    if (collection) this.#start(undefined, collection);
  }

  /**
   * @param {string | undefined} documentId
   * @param {any} from
   */
  #start(documentId, from) {
    this.#subscriptions.get(documentId)?.abort();
    const controller = new AbortController();
    this.#subscriptions.set(documentId, controller);
    const { signal } = controller;
    this.#try(async () => {
      try {
        await this.read(this, { documentId, from, signal });
      } catch (error) {
        // One document that may not be read leaves the others as they are. That is the server's to say.
        if (!(error instanceof ProblemError) || !isKind(error.problem, "forbidden")) throw error;
        this.hear({ type: "error", problem: error.problem, documentId });
      }
    }, signal);
  }

  /** @param {any} push */
  async #push({ type: _, ...push }) {
    try {
      const body = { ...push, clientId: this.#clientId };
      const response = await this.request(`api/push/${encodeURIComponent(push.documentId)}`, { body });
      this.hear({ ...(await readPushed(response, push)), type: "pushed" });
    } catch (error) {
      // Without a good token nothing is decided about the write: it is sent again under the next one.
      if (!(error instanceof ProblemError) || isKind(error.problem, "not-authenticated")) throw error;
      const { problem } = error;
      const { documentId, clientSeq } = push;
      this.hear({ type: "rejected", documentId, clientSeq, problem, current: problem.current });
    }
  }

  /**
   * Does something; if it fails, the link is broken, unless the failure is one of our own aborts.
   *
   * @param {() => Promise<void>} action
   * @param {AbortSignal} [signal]
   */
  async #try(action, signal) {
    try {
      await action();
    } catch (error) {
      if (this.#closed || signal?.aborted) return;
      if (error instanceof ProblemError && error.problem.status === 401 && isOwn(error.problem)) this.hear({ type: "error", problem: error.problem });
      this.close();
      this.listener.closed(undefined, String(error));
    }
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal ends it at once, as a failure
 * @returns {Promise<void>}
 */
const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });

/**
 * The answer to a push, if it is one: a page that says something else with a 200 has taken no write.
 *
 * @param {Response} response
 * @param {any} push
 */
async function readPushed(response, { documentId, clientSeq }) {
  const copy = response.clone();
  const pushed = await response.json().catch(() => undefined);
  if (pushed?.documentId === documentId && pushed.clientSeq === clientSeq && Number.isSafeInteger(pushed.version)) return pushed;
  throw new ProblemError(await problemOf(copy));
}

/** Whether there is nothing to have the state of. Then its first event can still be waited for. @param {unknown} error */
const isUnknownDocument = (error) => error instanceof ProblemError && isKind(error.problem, "unknown-document");

/** Whether what was asked for is compacted away, or of another history. @param {unknown} error */
const isGone = (error) => error instanceof ProblemError && isKind(error.problem, "history-compacted");

/** @typedef {string | number} Place after which event to go on, as it stands in an address */

/**
 * @param {{ cursor?: number, timestamp?: number }} resume
 * @returns {Place | undefined}
 */
const placeOf = ({ cursor, timestamp }) => (cursor !== undefined && timestamp !== undefined ? `${cursor}@${timestamp}` : cursor);

/**
 * Where to go on after a page: its last event or its snapshot is named, and without either the reader is where it was.
 *
 * @param {{ events: { timestamp: number }[], snapshot?: { timestamp?: number } }} page
 * @param {number} cursor
 * @param {Place | undefined} before
 */
function placeAfter({ events, snapshot }, cursor, before) {
  const timestamp = events.at(-1)?.timestamp ?? snapshot?.timestamp;
  if (timestamp !== undefined) return placeOf({ cursor, timestamp });
  return Number.parseInt(String(before), 10) === cursor ? before : cursor;
}

/** Follows by Server-Sent Events. @type {Reader} */
async function follow(link, { documentId, from, signal }) {
  const path = documentId === undefined ? "events" : `events/${encodeURIComponent(documentId)}`;
  const open = (/** @type {Place | undefined} */ after) =>
    link.ask(path + (after === undefined ? "" : `?after=${after}`), { signal, accept: "text/event-stream" });
  const response = await open(placeOf(from)).catch((error) => (isUnknownDocument(error) ? open(0) : Promise.reject(error)));
  for await (const { event, data } of readServerSentEvents(response, STREAM_SILENCE_MS)) {
    if (signal.aborted) return;
    link.hear(asMessage(event, JSON.parse(data), documentId));
  }
  if (!signal.aborted) throw new Error("the stream ended");
}

/**
 * A Server-Sent Event as a message of the WebSocket.
 *
 * @param {string} name
 * @param {any} data
 * @param {string | undefined} documentId
 */
function asMessage(name, data, documentId) {
  const scope = documentId === undefined ? { collection: true } : { documentId };
  return name === "event" ? { type: "events", ...scope, events: [data] } : { type: name, ...scope, ...data };
}

/** Follows by long polls. @type {Reader} */
async function poll(link, { documentId, from, signal }) {
  if (documentId === undefined) return pollCollection(link, placeOf(from) ?? 0, signal);
  let after = placeOf(from);
  for (let live = false; !signal.aborted; ) {
    try {
      // Without a cursor, or with one that the server has no history for: the state as it is.
      const page = after === undefined ? await sync(link, documentId, signal) : await eventsAfter(link, documentId, after, live, signal);
      if (page.snapshot) link.hear({ type: "snapshot", ...page.snapshot, documentId });
      if (page.events.length > 0) link.hear({ type: "events", documentId, events: page.events });
      after = placeAfter(page, page.cursor, after);
      if (!live && page.next === undefined) {
        live = true;
        link.hear({ type: "live", documentId, version: page.cursor });
      }
    } catch (error) {
      if (isUnknownDocument(error)) after = 0;
      else if (isGone(error)) after = undefined;
      else throw error;
    }
  }
}

/**
 * @param {HttpLink} link
 * @param {string} documentId
 * @param {AbortSignal} signal
 */
async function sync(link, documentId, signal) {
  return (await link.ask(`api/sync/${encodeURIComponent(documentId)}`, { body: {}, signal })).json();
}

/**
 * @param {HttpLink} link
 * @param {string} documentId
 * @param {Place} after
 * @param {boolean} live whether to wait for the next one
 * @param {AbortSignal} signal
 */
async function eventsAfter(link, documentId, after, live, signal) {
  const wait = live ? POLL_WAIT_S : 0;
  const path = `api/events/${encodeURIComponent(documentId)}?after=${after}&limit=${PAGE_EVENTS}&wait=${wait}`;
  return (await link.ask(path, { waitMs: wait * 1000, signal })).json();
}

/**
 * @param {HttpLink} link
 * @param {Place} after
 * @param {AbortSignal} signal
 */
async function pollCollection(link, after, signal) {
  for (let live = false; !signal.aborted; ) {
    const wait = live ? POLL_WAIT_S : 0;
    const path = `api/events?after=${after}&limit=${PAGE_EVENTS}&wait=${wait}`;
    const page = await link.ask(path, { waitMs: wait * 1000, signal }).then(
      (response) => response.json(),
      (error) => {
        if (!isGone(error)) throw error;
        const position = error.problem.position ?? 0;
        link.hear({ type: "resync", collection: true, reason: error.message, position });
        return { events: [], position };
      },
    );
    if (page.events.length > 0) link.hear({ type: "events", collection: true, events: page.events });
    const { position } = page;
    after = placeAfter(page, position, after);
    if (!live && page.next === undefined) {
      live = true;
      link.hear({ type: "live", collection: true, position });
    }
  }
}
