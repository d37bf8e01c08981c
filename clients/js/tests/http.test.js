import assert from "node:assert/strict";
import { test } from "node:test";
import { openLongPoll, openServerSentEvents } from "../src/transports/http.js";

/**
 * A link to a server that answers as it is told: a function of the path and of how often it was asked for that.
 *
 * @returns what the link tells its machine, and how often each path was asked for
 */
function link(open, answer) {
  const [heard, closed, asked] = [[], [], new Map()];
  const fetch = async (url, { signal }) => {
    const times = (asked.get(url.pathname) ?? 0) + 1;
    asked.set(url.pathname, times);
    const response = url.pathname === "/livez" ? new Response("") : answer(url.pathname, times, signal);
    if (response) return response;
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  return new Promise((resolve) => {
    const listener = {
      opened: () => resolve({ opened, heard, closed, asked }),
      message: (message) => heard.push(message),
      closed: (...reason) => closed.push(reason),
    };
    const opened = open("http://server.test/", listener, { fetch });
  });
}

const tooMany = (retryAfterMs) =>
  Response.json({ type: "urn:weft:problem:too-many", title: "too many", status: 429, retryAfterMs }, { status: 429 });

async function until(condition) {
  for (const end = Date.now() + 10_000; !condition(); ) {
    assert.ok(Date.now() < end, "in time");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const hello = { type: "hello", clientId: "me", documents: { a: { cursor: 3 }, b: { cursor: 3 } } };

test("a poll that is too much is sent again, and the other documents go on", async () => {
  const page = () => Response.json({ events: [], cursor: 3 });
  const { opened, heard, closed, asked } = await link(openLongPoll, (path, times) => {
    if (path === "/api/events/a" && times <= 2) return tooMany(20);
    return times <= (path === "/api/events/a" ? 3 : 1) ? page() : undefined;
  });
  opened.send(hello);
  await until(() => asked.get("/api/events/a") === 4);
  assert.deepEqual(heard.slice(1).map(({ type, documentId }) => [type, documentId]), [["live", "b"], ["live", "a"]]);
  assert.deepEqual(closed, []);
  opened.close();
});

test("a stream that is too much is opened again", async () => {
  const stream = (signal) => {
    const start = (to) => {
      to.enqueue(new TextEncoder().encode("event: live\ndata: {}\n\n"));
      signal.addEventListener("abort", () => to.error(signal.reason));
    };
    return new Response(new ReadableStream({ start }));
  };
  const { opened, heard, closed } = await link(openServerSentEvents, (_, times, signal) => (times === 1 ? tooMany(1) : stream(signal)));
  opened.send(hello);
  await until(() => heard.length === 3);
  assert.deepEqual(heard.slice(1).map(({ type, documentId }) => [type, documentId]).sort(), [["live", "a"], ["live", "b"]]);
  assert.deepEqual(closed, []);
  opened.close();
});

test("nothing is asked any more once the link is closed", async () => {
  const { opened, closed, asked } = await link(openLongPoll, () => tooMany(150));
  opened.send(hello);
  await until(() => asked.get("/api/events/b") === 1);
  opened.close();
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.deepEqual([asked.get("/api/events/a"), asked.get("/api/events/b"), closed], [1, 1, []]);
});

test("any other refusal breaks the link as before", async () => {
  const { opened, closed } = await link(openLongPoll, () => Response.json({ title: "gone mad", status: 500 }, { status: 500 }));
  opened.send(hello);
  await until(() => closed.length === 1);
});
