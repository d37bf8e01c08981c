// The rows of the table by json-joy: one JSON request a line, one answer a line with what was measured.

'use strict';

const fs = require('fs');
const path = require('path');
const zlib = require('zlib');
const {createRequire} = require('module');
const {performance} = require('perf_hooks');
const readline = require('readline');

const [traces, folder] = process.argv.slice(2);
const load = createRequire(path.resolve(folder, 'package.json'));
const {Model} = load('json-joy/lib/json-crdt');
const {Patch} = load('json-joy/lib/json-crdt-patch');

const N = 6000;
const CLIENTS = 1549;

const check = (truth, what) => {
  if (!truth) throw new Error(`not so: ${what}`);
};
const read = (name) => JSON.parse(zlib.gunzipSync(fs.readFileSync(path.join(traces, name))).toString());
const lazy = (make) => {
  let made;
  return () => (made ??= make());
};
const timed = (ready, work, test) => {
  if (global.gc) global.gc();
  const start = performance.now();
  const done = work(ready);
  const took = performance.now() - start;
  test(done);
  return took;
};

const paper = lazy(() => {
  const trace = read('automerge-paper.json.gz');
  return {edits: trace.txns.flatMap((txn) => txn.patches), end: trace.endContent};
});

const base = lazy(() => {
  const model = Model.create(undefined, 100000);
  model.api.set({text: '', list: [], map: {}});
  model.api.flush();
  return model;
});
const create = (client) => base().fork(100001 + client);

/** Makes edits, each a patch of its own, and hands on a message for each if someone wants them. */
const type = (model, edits, sink) => {
  const text = model.api.str(['text']);
  for (const [at, del, ins] of edits) {
    if (del) text.del(at, del);
    if (ins) text.ins(at, ins);
    if (sink) {
      const patch = model.api.flush();
      if (patch) sink(patch.toBinary());
    }
  }
  if (!sink) model.api.flush();
  return model;
};
const apply = (model, messages) => {
  for (const message of messages) model.applyPatch(Patch.fromBinary(message));
  return model;
};
const text = (model) => model.view().text;

const paperMessages = lazy(() => {
  const messages = [];
  type(create(0), paper().edits, (message) => messages.push(message));
  return messages;
});
const paperBytes = lazy(() => type(create(0), paper().edits).toBinary());

const concurrent = lazy(() => {
  const trace = read('friendsforever.concurrent.json.gz');
  const {txns, numAgents} = trace;
  const models = Array.from({length: numAgents}, (_, at) => create(at));
  const seen = models.map(() => new Set());
  const made = [];
  txns.forEach((txn, at) => {
    const open = [...txn.parents];
    const missing = [];
    while (open.length) {
      const parent = open.pop();
      if (seen[txn.agent].has(parent)) continue;
      seen[txn.agent].add(parent);
      missing.push(parent);
      open.push(...txns[parent].parents);
    }
    missing.sort((a, b) => a - b);
    for (const parent of missing) apply(models[txn.agent], made[parent]);
    made.push([]);
    type(models[txn.agent], txn.patches, (message) => made[at].push(message));
    seen[txn.agent].add(at);
  });
  return {messages: made.flat(), end: trace.endContent};
});

const entries = lazy(() => Object.fromEntries(Array.from({length: 60000}, (_, n) => [`key${n}`, n])));
const setAll = (model, values) => {
  model.api.obj(['map']).set(values);
  return model.api.flush().toBinary();
};
const keysBytes = lazy(() => {
  const model = create(0);
  setAll(model, entries());
  return model.toBinary();
});
const loadKeys = (bytes) => {
  const model = Model.fromBinary(bytes);
  check(model.api.obj(['map']).get('key34567').view() === 34567, 'a key');
  return model;
};
const insert = (model, at, values) => {
  model.api.arr(['list']).ins(at, values);
  return model.api.flush().toBinary();
};
/** Constants, as a list of numbers has them. */
const insertNumbers = (model, at, numbers) => {
  const {builder} = model.api;
  const ids = numbers.map((n) => builder.con(n));
  model.api.arr(['list']).ins(at, ids);
  return model.api.flush().toBinary();
};
const recordsBytes = lazy(() => {
  const model = create(0);
  insert(model, 0, Array.from({length: 20000}, (_, n) => ({
    id: n, a: n % 97, b: n % 89, c: n * 7, active: n % 3 === 0, score: n / 8, parent: null,
    x: -n, y: Math.floor(n / 3), rank: Math.floor(n / 7), from: 1700000000 + n, to: 1800000000 + n,
  })));
  return model.toBinary();
});

// The same numbers as in `bench.rs`.
const numbers = (seed) => {
  let state = BigInt(seed);
  const below = (end) => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return Number((state >> 33n) % BigInt(Math.max(end, 1)));
  };
  const letter = () => String.fromCharCode(97 + below(26));
  const word = () => {
    let out = '';
    for (let len = 2 + below(8); len > 0; len--) out += letter();
    return out;
  };
  return {below, letter, word};
};
const randomEdits = (seed, start, kind) => {
  const of = numbers(seed);
  const edits = [];
  let len = start;
  for (let i = 0; i < N; i++) {
    const at = of.below(len + 1);
    if (kind === 2 && len > at && of.below(2) === 0) {
      const del = Math.min(1 + of.below(8), len - at);
      edits.push([at, del, '']);
      len -= del;
      continue;
    }
    const ins = kind === 0 ? of.letter() : of.word();
    len += ins.length;
    edits.push([at, 0, ins]);
  }
  return {edits, len};
};
const charAt = (n) => String.fromCharCode(97 + (n % 26));
const long = Array.from({length: N}, (_, n) => charAt(n)).join('');
const range = (make) => Array.from({length: N}, (_, n) => make(n));

const textToOther = (make) => {
  const prepared = lazy(make);
  return () => {
    const {edits, len} = prepared();
    return timed([create(0), create(1)], ([one, other]) => {
      type(one, edits, (message) => apply(other, [message]));
      return [one, other];
    }, ([one, other]) => check(text(one) === text(other) && text(one).length === len, 'equal texts'));
  };
};
const listToOther = (make) => {
  const prepared = lazy(make);
  return () => timed([create(0), create(1)], ([one, other]) => {
    for (const [at, values] of prepared()) apply(other, [insertNumbers(one, at, values)]);
    return [one, other];
  }, ([one, other]) => check(one.view().list.length === N && other.view().list.length === N, 'N numbers'));
};
const twoAtOnce = (make) => {
  const prepared = lazy(make);
  return () => {
    const pair = [create(0), create(1)];
    type(pair[0], [[0, 0, 'x'.repeat(100)]], (message) => apply(pair[1], [message]));
    return timed(pair, ([one, other]) => {
      const [fromOne, fromOther] = [[], []];
      type(one, prepared()[0].edits, (message) => fromOne.push(message));
      type(other, prepared()[1].edits, (message) => fromOther.push(message));
      apply(other, fromOne);
      apply(one, fromOther);
      return [one, other];
    }, ([one, other]) => check(text(one) === text(other) && text(one).length > 0, 'equal texts'));
  };
};
const manyClients = (change, test) => {
  const prepared = lazy(() => Array.from({length: CLIENTS}, (_, n) => change(create(n), n)));
  return () => timed(create(5000), (model) => apply(model, prepared()), (model) => check(test(model.view()), 'all changes'));
};

const rows = {
  local: () => timed(create(0), (model) => {
    const edited = model.api.str(['text']);
    for (const [at, del, ins] of paper().edits) {
      if (del) edited.del(at, del);
      if (ins) edited.ins(at, ins);
      model.api.flush();
    }
    return model;
  }, (model) => check(text(model) === paper().end, 'the text')),
  message: () => timed(create(0), (model) => {
    const tally = {count: 0, bytes: 0, hash: 0};
    type(model, paper().edits, (message) => {
      tally.count++;
      tally.bytes += message.length;
      let {hash} = tally;
      for (let i = 0; i < message.length; i++) hash = Math.imul((hash << 5) ^ message[i], 0x2722_0a95);
      tally.hash = hash;
    });
    return [model, tally];
  }, ([model, tally]) => {
    check(text(model) === paper().end, 'the text');
    check(tally.count === paper().edits.length && tally.bytes > tally.count, 'a message for each edit');
  }),
  remote: () => {
    const messages = paperMessages();
    return timed(create(1), (model) => apply(model, messages), (model) => check(text(model) === paper().end, 'the text'));
  },
  concurrent: () => {
    const {messages, end} = concurrent();
    return timed(create(9), (model) => apply(model, messages), (model) => check(text(model).length === end.length, 'the length'));
  },
  load: () => {
    const bytes = paperBytes();
    return timed(bytes, (bytes) => {
      const model = Model.fromBinary(bytes).fork(100002);
      model.api.str(['text']).ins(0, '!');
      model.api.flush();
      return model;
    }, (model) => check(text(model) === '!' + paper().end, 'the text'));
  },
  save: () => {
    const model = Model.fromBinary(paperBytes());
    return timed(model, (model) => model.toBinary(), (bytes) => check(bytes.length > 50000, 'a snapshot'));
  },
  'change and save': () => {
    const model = Model.fromBinary(paperBytes()).fork(100002);
    const change = [[Math.floor(paper().end.length / 2), 0, '!']];
    return timed(
      model,
      (model) => type(model, change).toBinary(),
      (bytes) => check(bytes.length > 50000, 'a snapshot'),
    );
  },
  size: () => paperBytes().length,
  keys: () => timed([create(0), create(1)], ([one, other]) => {
    apply(other, [setAll(one, entries())]);
    return other;
  }, (other) => check(other.view().map.key59999 === 59999, 'the last key')),
  'keys-load': () => {
    const bytes = keysBytes();
    return timed(bytes, loadKeys, (model) => check(Object.keys(model.view().map).length === 60000, 'all keys'));
  },
  'keys-ready': () => {
    const bytes = keysBytes();
    return timed(bytes, (bytes) => {
      const model = loadKeys(bytes);
      check(setAll(model, {key23456: -1}).length > 0, 'a message');
      return model;
    }, (model) => check(Object.keys(model.view().map).length === 60000, 'all keys'));
  },
  'records-load': () => {
    const bytes = recordsBytes();
    return timed(bytes, (bytes) => {
      const model = Model.fromBinary(bytes);
      check(model.api.obj(['list', 12345]).get('c').view() === 86415, 'a field');
      return model;
    }, (model) => check(model.view().list.length === 20000, 'all records'));
  },
  'b1.1': textToOther(() => ({edits: range((n) => [n, 0, charAt(n)]), len: N})),
  'b1.2': textToOther(() => ({edits: [[0, 0, long]], len: N})),
  'b1.3': textToOther(() => ({edits: range((n) => [0, 0, charAt(n)]), len: N})),
  'b1.4': textToOther(() => randomEdits(1, 0, 0)),
  'b1.5': textToOther(() => randomEdits(2, 0, 1)),
  'b1.6': textToOther(() => ({edits: [[0, 0, long], [0, N, '']], len: 0})),
  'b1.7': textToOther(() => randomEdits(3, 0, 2)),
  'b1.8': listToOther(() => range((n) => [n, [n]])),
  'b1.9': listToOther(() => [[0, range((n) => n)]]),
  'b1.10': listToOther(() => range((n) => [0, [n]])),
  'b1.11': listToOther(() => {
    const of = numbers(4);
    return range((n) => [of.below(n + 1), [n]]);
  }),
  'b2.1': twoAtOnce(() => [0, 1].map(() => ({edits: [[0, 0, long]]}))),
  'b2.2': twoAtOnce(() => [5, 6].map((seed) => randomEdits(seed, 100, 0))),
  'b2.3': twoAtOnce(() => [7, 8].map((seed) => randomEdits(seed, 100, 1))),
  'b2.4': twoAtOnce(() => [9, 10].map((seed) => randomEdits(seed, 100, 2))),
  'b3.1': manyClients((model, n) => setAll(model, {v: n}), (view) => view.map.v !== undefined),
  'b3.2': manyClients((model, n) => setAll(model, {v: {name: `user ${n}`, address: 'here'}}), (view) => !!view.map.v.name),
  'b3.3': manyClients((model, n) => setAll(model, {v: `${n} `.repeat(40)}), (view) => view.map.v.length > 40),
  'b3.4': manyClients((model, n) => insert(model, 0, [`${n} `.repeat(40)]), (view) => view.list.length === CLIENTS),
};

readline.createInterface({input: process.stdin}).on('line', (line) => {
  const {row} = JSON.parse(line);
  let answer;
  try {
    answer = {value: rows[row]()};
  } catch (error) {
    answer = {error: String(error.stack || error)};
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
});
