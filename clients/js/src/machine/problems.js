/**
 * What a refusal says about a write. Only the server decides about one, and it says so in its own words; what stands
 * between it and the client answers in others.
 *
 * @module
 */

/** How the types of the server's problems begin. */
const OWN = "urn:weft:problem:";

/** Problems that decide nothing: the write may have been taken, or be taken later. The same one is sent again. */
const PASSING = new Set(["unavailable", "too-many", "too-slow", "internal", "idempotency-in-progress"]);
/** Problems that say "others were faster": the write waits for their events, then goes out rebased. */
const OUTDATED = new Set(["version-mismatch", "already-exists", "unknown-document"]);

/** Whether a problem is the server's own. @param {any} problem */
export const isOwn = (problem) => typeof problem?.type === "string" && problem.type.startsWith(OWN);

/** Whether a problem is of one of the server's types. @param {any} problem @param {string} kind */
export const isKind = (problem, kind) => problem?.type === OWN + kind;

/**
 * - `passing`: nobody knows whether it is done. - `too-large`: not this time, and not the next, as it does not get
 * through; of another attempt nobody knows. - `outdated`, `sequence-gap`, `refused`: the server has not taken it.
 *
 * @param {any} problem
 * @returns {"passing" | "too-large" | "outdated" | "sequence-gap" | "refused"}
 */
export function reasonOf(problem) {
  const { status } = problem;
  if (status === 413) return "too-large";
  if (!isOwn(problem) || status === 401 || status === 408 || status === 429 || status >= 500) return "passing";
  const kind = problem.type.slice(OWN.length);
  if (PASSING.has(kind)) return "passing";
  if (OUTDATED.has(kind)) return "outdated";
  if (kind === "sequence-gap") return kind;
  return kind === "too-large" ? kind : "refused";
}

/**
 * What is said of a write that no message is large enough for.
 *
 * @param {number} bytes
 * @param {number} [limit] where it is known
 */
export function tooLarge(bytes, limit) {
  const most = limit === undefined ? "something on the way to the server takes no message so large" : `the server takes at most ${limit}`;
  return { type: `${OWN}too-large`, title: "too large", status: 413, detail: `the edit has ${bytes} bytes; ${most}`, ...(limit && { limit, unit: "bytes" }) };
}

/**
 * The problem that a response other than the one expected is.
 *
 * @param {Response} response
 * @returns {Promise<any>}
 */
export async function problemOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const problem = JSON.parse(text);
    if (isOwn(problem) && !response.ok) return problem;
  } catch {
    // A page for people, most likely.
  }
  const { status } = response;
  const isRedirect = response.type === "opaqueredirect" || (status >= 300 && status < 400);
  const answer = isRedirect ? "a redirect" : response.ok ? "something else than the server would" : String(status);
  const seconds = Number(response.headers.get("retry-after"));
  return {
    type: "about:blank",
    title: `something between here and the server answered ${answer}`,
    status,
    isBetween: true,
    ...(seconds > 0 && { retryAfterMs: seconds * 1000 }),
  };
}
