import assert from "node:assert/strict";
import { test } from "node:test";
import { ServerSentEventParser } from "../src/transports/server-sent-events.js";

/** What a stream reads as, in one piece and in every other cut. */
function check(text, expect) {
  const read = (pieces) => {
    const parser = new ServerSentEventParser();
    return pieces.flatMap((piece) => [...parser.push(piece)]).map(({ event, data, id }) => [event, data, id]);
  };
  assert.deepEqual(read([text]), expect);
  assert.deepEqual(read([...text]), expect, "one character at a time");
  for (let cut = 1; cut < text.length; cut++) assert.deepEqual(read([text.slice(0, cut), text.slice(cut)]), expect, `cut at ${cut}`);
}

test("messages have a name, data and an id that stays", () => {
  check("retry: 5\n\nid: 1\nevent: event\ndata: {}\n\ndata: x\n\n", [["event", "{}", "1"], ["message", "x", "1"]]);
});

test("lines end as they like, comments are passed over, data may have several lines", () => {
  check(":hi\r\ndata: a\r\ndata:b\r\n\r\n", [["message", "a\nb", undefined]]);
  check("data: a\rdata\r\rdata:  c\n\n", [["message", "a\n", undefined], ["message", " c", undefined]]);
});

test("a message that is not ended is none", () => {
  check("event: event\ndata: x\n", []);
});

test("a line without end is refused, not kept for ever", () => {
  const parser = new ServerSentEventParser();
  assert.throws(() => {
    for (let i = 0; i < 40; i++) [...parser.push("x".repeat(1 << 19))];
  }, /a line of more than/);
});
