// The real json-joy, driven over stdio: one JSON request a line, one JSON answer a line. Bytes are hex.

'use strict';

const {Model} = require('json-joy/lib/json-crdt');
const {Patch} = require('json-joy/lib/json-crdt-patch');
const patchCodec = {
  verbose: require('json-joy/lib/json-crdt-patch/codec/verbose'),
  compact: require('json-joy/lib/json-crdt-patch/codec/compact'),
  compactBinary: require('json-joy/lib/json-crdt-patch/codec/compact-binary'),
};
const structural = 'json-joy/lib/json-crdt/codec/structural/';
const verboseEncoder = new (require(structural + 'verbose').Encoder)();
const verboseDecoder = new (require(structural + 'verbose').Decoder)();
const compactEncoder = new (require(structural + 'compact').Encoder)();
const compactDecoder = new (require(structural + 'compact').Decoder)();
const compactBinaryEncoder = new (require(structural + 'compact-binary/Encoder').Encoder)();
const compactBinaryDecoder = new (require(structural + 'compact-binary/Decoder').Decoder)();
const IndexedEncoder = require('json-joy/lib/json-crdt/codec/indexed/binary/Encoder').Encoder;
const IndexedDecoder = require('json-joy/lib/json-crdt/codec/indexed/binary/Decoder').Decoder;
const SidecarEncoder = require('json-joy/lib/json-crdt/codec/sidecar/binary/Encoder').Encoder;
const SidecarDecoder = require('json-joy/lib/json-crdt/codec/sidecar/binary/Decoder').Decoder;
const {CborEncoder} = require('@jsonjoy.com/json-pack/lib/cbor/CborEncoder');
const {CborDecoder} = require('@jsonjoy.com/json-pack/lib/cbor/CborDecoder');

const cbor = new CborEncoder();
const uncbor = new CborDecoder();
const hex = (bytes) => Buffer.from(bytes).toString('hex');
const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'));

/** Numbers out of a seed (mulberry32), so that a failing session can be run again. */
const random = (seed) => {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const below = (n) => Math.floor(next() * n);
  return {below, pick: (list) => list[below(list.length)], chance: (p) => next() < p};
};

/** A document in every form that json-joy has. */
const forms = (model) => {
  const logical = model.clock.sid !== 1;
  const compact = compactEncoder.encode(model);
  const out = {
    binary: hex(model.toBinary()),
    verbose: hex(cbor.encode(verboseEncoder.encode(model))),
    compact: hex(cbor.encode(compact)),
    compactBinary: hex(compactBinaryEncoder.encode(model)),
  };
  if (logical) {
    const fields = new IndexedEncoder().encode(model);
    out.indexed = Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, hex(v)]));
    const [view, meta] = new SidecarEncoder().encode(model);
    out.sidecar = [hex(view), hex(meta)];
  }
  return out;
};

const load = (form, data) => {
  switch (form) {
    case 'binary': return Model.fromBinary(unhex(data));
    case 'verbose': return verboseDecoder.decode(uncbor.decode(unhex(data)));
    case 'compact': return compactDecoder.decode(uncbor.decode(unhex(data)));
    case 'compactBinary': return compactBinaryDecoder.decode(unhex(data));
    case 'indexed': return new IndexedDecoder().decode(
      Object.fromEntries(Object.entries(data).map(([k, v]) => [k, unhex(v)])));
    case 'sidecar': {
      const view = data[0] ? new CborDecoder().decode(unhex(data[0])) : undefined;
      return new SidecarDecoder().decode(view, unhex(data[1]));
    }
    default: throw new Error('unknown form ' + form);
  }
};

const view = (model) => hex(cbor.encode(model.view()));

const constant = (r) => r.pick([
  () => null, () => true, () => false, () => r.below(10), () => -r.below(1000), () => r.below(1e9) * 1000,
  () => r.below(1000) / 8, () => r.below(1e9) / 1e7, () => 'c' + r.below(100),
])();

const text = (r) => r.pick(['a', 'bc', 'd\u00e9f', '\ud83d\ude42', 'longer text here', '\u65e5\u672c\u8a9e', 'x'.repeat(70)]);

const json = (r, depth = 2) => r.pick(depth === 0 ? [() => constant(r), () => text(r)] : [
  () => constant(r), () => text(r),
  () => Array.from({length: r.below(4)}, () => json(r, depth - 1)),
  () => Object.fromEntries(Array.from({length: r.below(4)}, () => [key(r), json(r, depth - 1)])),
  () => Uint8Array.from({length: r.below(9)}, () => r.below(256)),
])();

const key = (r) => r.pick(['k' + r.below(8), String(r.below(12)), '\u043a\u043b\u044e\u0447', 'a longer key ' + r.below(3)]);

/** The nodes that are reachable from the root, by kind. */
const reachable = (model) => {
  const found = {obj: [], arr: [], str: [], bin: [], vec: [], val: []};
  const walk = (node) => {
    if (!node) return;
    const name = node.name();
    if (found[name]) found[name].push(node);
    node.children((child) => walk(child));
  };
  walk(model.root.node());
  return found;
};

/** No cut through a surrogate pair: the reference loses halves in long texts (H2). */
const whole = (s, at) => (s.charCodeAt(at) >>> 10 === 0x37 ? at - 1 : at);

const edit = (model, r) => {
  const nodes = reachable(model);
  const kinds = Object.keys(nodes).filter((kind) => nodes[kind].length);
  const b = model.api.builder;
  if (!kinds.length || r.chance(0.01)) {
    b.root(b.json(r.chance(0.3) ? json(r) : {t: 'text', l: [1, 2, 'x'], o: {k: 1}, b: new Uint8Array([1, 2]), v: 0}));
    model.api.apply();
    return;
  }
  const kind = r.pick(kinds);
  const node = r.pick(nodes[kind]);
  const api = model.api.wrap(node);
  switch (kind) {
    case 'obj': {
      const keys = Array.from(node.keys.keys());
      if (keys.length && r.chance(0.2)) api.del([r.pick(keys)]);
      else if (r.chance(0.08)) {
        const vec = b.vec();
        b.insVec(vec, [[r.below(3), b.con(constant(r))], [3 + r.below(20), b.json(json(r))]]);
        b.insObj(node.id, [[key(r), vec]]);
        model.api.apply();
      } else if (r.chance(0.05)) {
        // A value of another kind of root: bare constants of all JSON shapes.
        const con = b.con({a: [constant(r), {b: constant(r)}], t: text(r)});
        b.insObj(node.id, [[key(r), con]]);
        model.api.apply();
      } else api.set({[key(r)]: json(r)});
      break;
    }
    case 'arr': {
      const length = api.length();
      if (length && r.chance(0.3)) {
        const at = r.below(length);
        api.del(at, 1 + r.below(Math.min(3, length - at)));
      } else if (length && r.chance(0.3)) {
        api.upd(r.below(length), json(r, 1));
      } else api.ins(r.below(length + 1), Array.from({length: 1 + r.below(3)}, () => json(r, 1)));
      break;
    }
    case 'str': {
      const s = node.view();
      const from = whole(s, r.below(s.length + 1));
      if (s.length && r.chance(0.4)) {
        const to = whole(s, Math.min(s.length, from + 1 + r.below(6)));
        if (to > from) api.del(from, to - from);
      } else api.ins(from, text(r));
      break;
    }
    case 'bin': {
      const length = node.length();
      if (length && r.chance(0.4)) {
        const at = r.below(length);
        api.del(at, 1 + r.below(Math.min(3, length - at)));
      } else api.ins(r.below(length + 1), Uint8Array.from({length: 1 + r.below(9)}, () => r.below(256)));
      break;
    }
    case 'vec':
      api.set([[r.below(4), json(r, 1)]]);
      break;
    case 'val':
      api.set(json(r, 1));
      break;
  }
};

/** Several replicas edit at once and now and then exchange patches. Patches come out in a causal order. */
const session = ({seed, replicas, steps}) => {
  const r = random(seed);
  const patches = [];
  const base = Model.create(undefined, 100000 + r.below(1e9));
  base.api.root({t: 'hello', l: [1, 'x'], o: {k: 1}, b: new Uint8Array([1, 2, 3])});
  patches.push(base.api.flush());
  const all = [base];
  for (let i = 1; i < replicas; i++) all.push(base.fork(100000 + r.below(2 ** 40)));
  const seen = all.map(() => 1);
  const own = all.map(() => new Set());
  const catchUp = (i, to) => {
    for (; seen[i] < to; seen[i]++) if (!own[i].has(seen[i])) all[i].applyPatch(Patch.fromBinary(patches[seen[i]].toBinary()));
  };
  for (let step = 0; step < steps; step++) {
    const i = r.below(replicas);
    if (r.chance(0.4)) catchUp(i, seen[i] + r.below(patches.length - seen[i] + 1));
    for (let edits = 1 + r.below(3); edits; edits--) edit(all[i], r);
    const patch = all[i].api.flush();
    if (patch && patch.ops.length) {
      own[i].add(patches.length);
      patches.push(patch);
    }
  }
  for (let i = 0; i < replicas; i++) catchUp(i, patches.length);
  const views = all.map(view);
  return {
    patches: patches.map((p) => hex(p.toBinary())),
    views,
    sid: all[0].clock.sid,
    time: all[0].clock.time,
    peers: Array.from(all[0].clock.peers.values()).map((ts) => [ts.sid, ts.time]),
    forms: forms(all[0]),
  };
};

const handlers = {
  session,
  /** Takes patches in the given order; answers with the view and all forms. */
  apply: ({sid, patches}) => {
    const model = Model.create(undefined, sid);
    for (const patch of patches) model.applyPatch(Patch.fromBinary(unhex(patch)));
    return {view: view(model), time: model.clock.time, forms: forms(model)};
  },
  /** The same without the forms that cannot say a register without a value. */
  taken: ({sid, patches}) => {
    const model = Model.create(undefined, sid);
    for (const patch of patches) model.applyPatch(Patch.fromBinary(unhex(patch)));
    return {view: view(model), binary: hex(model.toBinary())};
  },
  /** Edits of the texts, bytes and lists in a map, each of which becomes a patch: of a document that took patches, or was read. */
  edits: ({sid, patches, data, edits}) => {
    const model = data ? Model.load(unhex(data), sid) : Model.create(undefined, sid);
    for (const patch of patches || []) model.applyPatch(Patch.fromBinary(unhex(patch)));
    return edits.map(([key, at, gone, text]) => {
      const node = {t: 'str', b: 'bin', l: 'arr'}[key];
      const api = model.api[node]([key]);
      if (gone) api.del(at, gone);
      if (text) api.ins(at, {t: text, b: Buffer.from(text), l: Array.from(text)}[key]);
      return hex(model.api.flush().toBinary());
    });
  },
  /** Reads a document in a form; answers with its view and binary form, and after more patches with the view. */
  load: ({form, data, patches}) => {
    const model = load(form, data);
    const out = {view: view(model), binary: hex(model.toBinary())};
    for (const patch of patches || []) model.applyPatch(Patch.fromBinary(unhex(patch)));
    return {...out, after: view(model)};
  },
  /** What json-joy's own extension types make of a document, and of an addition to its counter at /likes. */
  extensions: ({data, patches}) => {
    const {cnt, mval} = require('json-joy/lib/json-crdt-extensions');
    const model = Model.load(unhex(data), 300000);
    model.ext.register(cnt);
    model.ext.register(mval);
    for (const patch of patches) model.applyPatch(Patch.fromBinary(unhex(patch)));
    const before = view(model);
    model.api.in(['likes']).asExt(cnt).inc(4);
    return {view: before, after: view(model), patch: hex(model.api.flush().toBinary())};
  },
  /** The operations that a JSON Patch becomes, in binary, and what is shown then; nothing if it is refused. */
  jsonPatch: ({sid, doc, ops}) => {
    const {JsonPatch} = require('json-joy/lib/json-crdt/json-patch/JsonPatch');
    const model = Model.create(undefined, sid);
    model.api.root(doc);
    model.api.flush();
    try {
      new JsonPatch(model, []).apply(ops);
    } catch {
      return {};
    }
    const patch = model.api.flush();
    return {operations: patch && patch.ops.length ? hex(patch.toBinary()) : '', view: model.view() ?? null};
  },
  /** What json-joy shows of a document whose root is a Quill text, before and after a delta of its own. */
  quill: ({data, delta}) => {
    const {ModelWithExt} = require('json-joy/lib/json-crdt-extensions');
    const model = ModelWithExt.load(unhex(data), 300000);
    const text = model.s.toExt();
    const before = text.view();
    text.apply(delta);
    return {before, after: text.view(), patch: hex(model.api.flush().toBinary())};
  },
  /** The blocks of a document whose root is a rich text, each with its steps, before and after a marker of json-joy's own. */
  blocks: ({data, marker}) => {
    const {ModelWithExt} = require('json-joy/lib/json-crdt-extensions');
    const model = ModelWithExt.load(unhex(data), 300000);
    const {txt} = model.s.toExt();
    const step = (step) => Array.isArray(step) ? [String(step[0]), step[1] ?? 0, step[2] ?? null] : [String(step), 0, null];
    const leaves = (block) =>
      block.children.length ? block.children.flatMap(leaves) : [[block.marker ? block.path.map(step) : [], block.text()]];
    const blocks = () => {
      txt.refresh();
      return txt.blocks.root.children.flatMap(leaves);
    };
    const before = blocks();
    if (!marker) return {before};
    txt.editor.cursor.setAt(marker[0]);
    txt.editor.saved.insMarker(marker[1]);
    txt.editor.delCursors();
    return {before, after: blocks(), patch: hex(model.api.flush().toBinary())};
  },
  /**
   * A document whose root is a rich text: the view with extensions, and the text in pieces with what the overlay has there,
   * each tag with all that is said; the same after edits of json-joy's own.
   */
  richText: ({data, edits}) => {
    const {ModelWithExt} = require('json-joy/lib/json-crdt-extensions');
    const {Inline} = require('json-joy/lib/json-crdt-extensions/peritext/block/Inline');
    const {Peritext} = require('json-joy/lib/json-crdt-extensions/peritext');
    const model = ModelWithExt.load(unhex(data), 300000);
    const node = model.s.toExt().node;
    const txt = new Peritext(model, node.text(), node.slices());
    const shown = () => {
      const {overlay} = txt;
      overlay.refresh(true);
      const pieces = [];
      const next = overlay.tuples0(undefined);
      for (let tuple; (tuple = next()); ) {
        const [p1, p2] = tuple;
        let text = '';
        overlay.chunkSlices0(undefined, p1, p2, (chunk, off, len) => {
          if (chunk.data) text += chunk.data.slice(off, off + len);
        });
        const attr = Object.entries(new Inline(txt, p1, p2, p1, p2).attr());
        if (text) pieces.push([text, Object.fromEntries(attr.map(([tag, all]) => [tag, all.map(({slice}) => slice.data())]))]);
      }
      return {view: view(model), pieces: hex(cbor.encode(pieces))};
    };
    const before = shown();
    for (const [what, ...of] of edits) {
      if (what === 'ins') txt.insAt(...of);
      else if (what === 'del') txt.strApi().del(...of);
      else {
        // A side is 0 before a character and 1 after it.
        const [from, to, start, end, type, said] = of;
        txt.savedSlices[what](txt.range(txt.pointIn(from, start), txt.pointIn(to, end)), type, said);
      }
    }
    const patch = model.api.flush();
    return {before, after: shown(), patch: hex(patch.toBinary())};
  },
  /** Reads a log: the states at its start and end, what it has at its frontier, and its patches. */
  readLog: ({format, data}) => {
    const {LogDecoder} = require('json-joy/lib/json-crdt/log/codec/LogDecoder');
    const {logDecoderOpts} = require('json-joy/lib/json-crdt/log/codec/logDecoderOpts');
    const decoder = new LogDecoder(logDecoderOpts);
    const {history} = decoder.decode(unhex(data), {format, history: true});
    const {frontier} = decoder.decode(unhex(data), {format, frontier: true});
    const patches = [];
    history.patches.forEach(({v}) => void patches.push(hex(v.toBinary())));
    return {
      start: view(history.start()),
      end: view(history.replayToEnd()),
      frontier: view(frontier.end),
      patches,
      metadata: history.metadata,
    };
  },
  /** Writes a log that starts behind the first patches. */
  writeLog: ({sid, first, patches, ...params}) => {
    const {Log} = require('json-joy/lib/json-crdt/log/Log');
    const {LogEncoder} = require('json-joy/lib/json-crdt/log/codec/LogEncoder');
    const {logEncoderOpts} = require('json-joy/lib/json-crdt/log/codec/logEncoderOpts');
    const model = Model.create(undefined, sid);
    for (const patch of first) model.applyPatch(Patch.fromBinary(unhex(patch)));
    const log = Log.from(model);
    for (const patch of patches) log.end.applyPatch(Patch.fromBinary(unhex(patch)));
    const data = new LogEncoder(logEncoderOpts).encode(log, params);
    return {data: hex(data), count: patches.length};
  },
  /** Reads a patch from one form and writes it in all. */
  patch: ({form, data}) => {
    const bytes = unhex(data);
    const patch =
      form === 'binary' ? Patch.fromBinary(bytes)
      : form === 'compactBinary' ? patchCodec.compactBinary.decode(bytes)
      : form === 'compact' ? patchCodec.compact.decode(JSON.parse(Buffer.from(bytes).toString()))
      : patchCodec.verbose.decode(JSON.parse(Buffer.from(bytes).toString()));
    return {
      binary: hex(patch.toBinary()),
      compactBinary: hex(patchCodec.compactBinary.encode(patch)),
      compact: hex(Buffer.from(JSON.stringify(patchCodec.compact.encode(patch)))),
      verbose: hex(Buffer.from(JSON.stringify(patchCodec.verbose.encode(patch)))),
    };
  },
};

require('readline').createInterface({input: process.stdin}).on('line', (line) => {
  let answer;
  try {
    const request = JSON.parse(line);
    answer = handlers[request.do](request);
  } catch (error) {
    answer = {error: String(error && error.stack || error)};
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
});
