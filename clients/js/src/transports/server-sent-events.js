/**
 * Reads a stream of Server-Sent Events. Not `EventSource`: that one hides the status and the problem of a refusal,
 * reconnects on its own, and is missing in Node.
 *
 * @module
 */

/** The longest message; a longer one is no message of ours. */
const MESSAGE_CHARS_MAX = 16 * 1024 * 1024;

/**
 * @param {Response} response
 * @param {number} silenceMaxMs after so long without a byte, the stream counts as dead
 * @returns {AsyncGenerator<{ event: string, data: string, id?: string }>}
 */
export async function* readServerSentEvents(response, silenceMaxMs) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  const parser = new ServerSentEventParser();
  try {
    for (;;) {
      const { done, value } = await withDeadline(reader.read(), silenceMaxMs);
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The format's line parser, as the HTML standard describes it. Takes text in pieces of any size. */
export class ServerSentEventParser {
  #rest = "";
  /** @type {string[]} */
  #data = [];
  #event = "";
  /** @type {string | undefined} */
  #id = undefined;

  /**
   * @param {string} text
   * @returns {Generator<{ event: string, data: string, id?: string }>}
   */
  *push(text) {
    this.#rest += text;
    if (this.#rest.length > MESSAGE_CHARS_MAX) throw new Error(`a line of more than ${MESSAGE_CHARS_MAX} characters`);
    for (;;) {
      // A "\r" at the very end may be the first half of a "\r\n": wait for what follows.
      const end = /\r\n|\n|\r(?!$)/.exec(this.#rest);
      if (!end) return;
      const line = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      if (line !== "") this.#field(line);
      else {
        if (this.#data.length > 0) yield { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
        this.#data = [];
        this.#event = "";
      }
    }
  }

  /** @param {string} line */
  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id") this.#id = value;
  }
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {number} waitMs
 * @returns {Promise<T>}
 */
function withDeadline(promise, waitMs) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`nothing for ${waitMs} ms`)), waitMs);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
