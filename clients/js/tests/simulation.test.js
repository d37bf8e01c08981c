import assert from "node:assert/strict";
import { test } from "node:test";
import { ConflictResolver } from "../src/conflict-resolver.js";
import { SyncMachine } from "../src/sync-machine.js";
import { ModelServer } from "./model-server.js";
import { randomFrom, SEED } from "./random.js";

/** A client with its two one-way pipes to the server. Cutting them loses what is in them. */
class Client {
  toServer = [];
  toClient = [];
  connected = false;
  reconnecting = false;
  retrying = false;
  seen = [];

  constructor(server, clientId, resolver, random) {
    Object.assign(this, { server, random });
    this.machine = new SyncMachine({ clientId, transports: ["websocket"], resolver });
    this.input({ type: "open", documentId: "g" });
    this.input({ type: "connect" });
  }

  input(input) {
    this.machine.handleInput(input, { nowMs: 1, random: this.random() });
    for (let output = this.machine.pollOutput(); output; output = this.machine.pollOutput()) {
      if (output.type === "open") this.connected = true;
      else if (output.type === "close") this.cut();
      else if (output.type === "send" && this.connected) this.toServer.push(output.message);
      else if (output.type === "setTimer" && output.name === "reconnect") this.reconnecting = true;
      else if (output.type === "setTimer" && output.name === "retry") this.retrying = true;
      else if (output.type === "clearTimer" && output.name === "retry") this.retrying = false;
      else if (output.type === "emit" && output.event.type === "event") this.seen.push(output.event.event.sequenceNum);
      else if (output.type === "emit" && output.event.type === "snapshot") this.seen = [output.event.version];
      else if (output.type === "emit") assert.ok(!["refused", "error"].includes(output.event.type), JSON.stringify(output));
    }
  }

  cut() {
    this.connected = false;
    this.subscribed = undefined;
    this.toServer = [];
    this.toClient = [];
  }

  /** The process ends and starts again with what it kept. */
  crash() {
    const record = structuredClone(this.machine.manager("g").toRecord());
    const { clientId, transports, resolver } = this.machine;
    this.cut();
    this.machine = new SyncMachine({ clientId, transports, resolver });
    this.input({ type: "open", documentId: "g", record });
    this.input({ type: "connect" });
    this.seen = [record.version];
  }

  /** The process ends and starts again with nothing but its name. What was on its way arrives first, or never. */
  forget() {
    while (this.server.stalled.length > 0) this.server.recover(this.random() < 0.5);
    const { clientId, transports, resolver } = this.machine;
    this.cut();
    this.retrying = this.reconnecting = false;
    this.machine = new SyncMachine({ clientId, transports, resolver });
    this.input({ type: "open", documentId: "g" });
    this.seen = [0];
    // Some write before they have heard anything.
    if (this.random() < 0.5) this.input({ type: "write", documentId: "g", state: { gold: -1, players: [] } });
    this.input({ type: "connect" });
  }

  /** Is cut off, connects again, and hears what there is before it says more. */
  meet() {
    this.cut();
    this.input({ type: "closed" });
    this.reconnecting = false;
    this.input({ type: "timer", name: "reconnect" });
    this.subscribed = "soon";
    this.input({ type: "opened" });
    this.serve(this.toServer.shift());
    while (this.toClient.length > 0) this.input({ type: "message", message: this.toClient.shift() });
  }

  get manager() {
    return this.machine.manager("g");
  }

  get canOpen() {
    return this.connected && this.subscribed === undefined && this.toServer.length === 0 && this.toClient.length === 0;
  }

  /** One message goes through, in one direction or the other. */
  step() {
    if (this.reconnecting) {
      this.reconnecting = false;
      return this.input({ type: "timer", name: "reconnect" });
    }
    if (this.retrying && this.random() < 0.3) {
      this.retrying = false;
      return this.input({ type: "timer", name: "retry" });
    }
    if (this.canOpen) {
      this.subscribed = "soon";
      return this.input({ type: "opened" });
    }
    if (this.toServer.length > 0 && (this.toClient.length === 0 || this.random() < 0.5)) this.serve(this.toServer.shift());
    else if (this.toClient.length > 0) this.input({ type: "message", message: this.toClient.shift() });
  }

  serve(message) {
    if (message.type === "hello") this.toClient.push({ type: "welcome" });
    const from = message.documents?.g;
    if (from) {
      this.toClient.push(...this.server.subscribe(from));
      this.subscribed = this.server.version;
    }
    if (message.type === "push") {
      const stalls = this.server.isBusy && this.random() < 0.2;
      const answer = this.server[stalls ? "stall" : "push"](this.machine.clientId, message);
      // The feed and the answers are not ordered to each other.
      if (this.random() < 0.5) this.feed();
      this.toClient.push(answer);
    }
  }

  /** The server sends what is new. */
  feed() {
    if (typeof this.subscribed !== "number" || this.subscribed === this.server.version) return;
    const events = this.server.events.slice(this.subscribed);
    this.subscribed = this.server.version;
    this.toClient.push({ type: "events", documentId: "g", events });
  }

  get settled() {
    const quiet = this.toServer.length + this.toClient.length === 0 && !this.reconnecting && !this.retrying && !this.canOpen;
    return quiet && this.manager.pending.length === 0 && this.subscribed === this.server.version;
  }
}

function edit(random, state) {
  if (state === null) return { gold: 0, players: [] };
  if (random() < 0.04) return null;
  if (random() < 0.3) return { ...state, players: [...state.players, `p${Math.floor(random() * 1000)}`] };
  return { ...state, [["gold", "level", "name"][Math.floor(random() * 3)]]: Math.floor(random() * 1000) };
}

function run(seed, resolver) {
  const random = randomFrom(seed);
  const server = new ModelServer();
  server.isBusy = true;
  const clients = ["a", "b.c", "__proto__"].map((id) => new Client(server, id, resolver(), random));
  let writes = 0;
  for (let step = 0; step < 2000; step++) {
    const client = clients[Math.floor(random() * clients.length)];
    const dice = random();
    if (dice < 0.06) {
      client.input({ type: "write", documentId: "g", state: edit(random, client.manager.view) });
      writes++;
    } else if (dice < 0.075) {
      client.cut();
      client.input({ type: "closed" });
    } else if (dice < 0.08) client.crash();
    else if (dice < 0.083) server.compacted = Math.floor(random() * server.version);
    else if (dice < 0.1) server.recover(random() < 0.7);
    else if (dice < 0.102) client.forget();
    else if (dice < 0.103) {
      server.restore(Math.floor(server.version * random()));
      // All hear of it before anybody writes.
      clients.forEach((each) => each.meet());
    } else if (dice < 0.2) client.feed();
    else client.step();
  }
  server.isBusy = false;
  while (server.stalled.length > 0) server.recover(random() < 0.7);
  for (let rounds = 0; !clients.every((client) => client.settled); rounds++) {
    assert.ok(rounds < 20_000, "the clients come to rest");
    for (const client of clients) {
      client.feed();
      client.step();
    }
  }
  assert.ok(server.version > 5 && writes > 60, "something happened");
  for (const client of clients) {
    const { view, version, stateVector } = client.manager;
    assert.deepEqual({ view, version, vector: { ...stateVector } }, { view: server.state, version: server.version, vector: { ...server.vector } });
    client.seen.forEach((sequenceNum, i) => assert.equal(sequenceNum, client.seen[0] + i, "each event once and in order"));
    const own = server.events.filter(({ clientId }) => clientId === client.machine.clientId).map(({ clientSeq }) => clientSeq);
    own.forEach((clientSeq, i) => assert.equal(clientSeq, i + 1, "each write once and without a gap"));
    assert.equal(client.machine.status, "live");
  }
}

for (const strategy of ["serverWins", "clientWins", "lastWriterWins", "threeWay"]) {
  test(`whatever the network does, all clients agree with the server (${strategy})`, () => {
    for (let round = 0; round < 60; round++) {
      const seed = SEED + round;
      try {
        run(seed, ConflictResolver[strategy]);
      } catch (error) {
        error.message = `WEFT_SEED=${seed}: ${error.message}`;
        throw error;
      }
    }
  });
}

test("writes of different fields all survive, whatever the network does", () => {
  const random = randomFrom(SEED);
  const server = new ModelServer();
  server.commit("setup", 1, { a: 0, b: 0, c: 0 });
  server.isBusy = true;
  const clients = ["a", "b", "c"].map((id) => new Client(server, id, ConflictResolver.serverWins(), random));
  const settle = () => {
    for (let rounds = 0; !clients.every((client) => client.settled); rounds++) {
      assert.ok(rounds < 20_000, "the clients come to rest");
      clients.forEach((client) => (client.feed(), client.step()));
      server.recover(random() < 0.7);
    }
  };
  settle();
  for (let step = 1; step <= 300; step++) {
    const client = clients[Math.floor(random() * 3)];
    const { clientId } = client.machine;
    client.input({ type: "write", documentId: "g", state: { ...client.manager.view, [clientId]: step } });
    assert.equal(client.manager.view[clientId], step);
    if (random() < 0.2) client.crash();
    if (random() < 0.2) server.recover(random() < 0.7);
    client.step();
  }
  const expected = Object.fromEntries(clients.map(({ machine, manager }) => [machine.clientId, manager.view[machine.clientId]]));
  settle();
  assert.deepEqual(server.state, expected);
});
