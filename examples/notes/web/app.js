/** The page: wires the replica, its connection, what is kept of it, and what is seen of it. @module */

import { drawCarets } from "./editor/carets.js";
import { Field } from "./editor/field.js";
import { hueOf, People } from "./people.js";
import { Keep } from "./sync/keep.js";
import { Link } from "./sync/link.js";
import { Places } from "./sync/places.js";
import { Replica } from "./sync/replica.js";
import { showBadge, showLeft, showPeople, startTheme, toast } from "./view.js";
import { settings } from "./settings.js";

const byId = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** How long after the last change the browser's copy is folded, so that it opens with what was seen last. */
const FOLD_AFTER_MS = 2000;

/** Who this window is to its node: a new one each time, as its session is. */
const peer = `window-${[...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

const { doc, store } = await whichText();
const places = new Places(doc);
const place = places.of(store);
const keep = new Keep(place);
const replica = new Replica(peer, { kept: await keep.load(), store: places.store(place) });
const link = new Link(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`, replica);
const title = new Field(byId("title"), replica, "title");
const text = new Field(byId("text"), replica, "text");
const people = new People(replica, link, { name: settings.get("name", nameFor(peer)), field: text });

let isKept = true;
/** @param {Promise<void>} writing */
const watched = (writing) =>
  writing.catch(() => {
    // Private windows may refuse. What is typed is then kept as long as this window is open.
    if (isKept) toast("This browser keeps nothing: leave the window open until everything is saved.");
    isKept = false;
  });

let foldTimer = 0;
function foldSoon() {
  clearTimeout(foldTimer);
  foldTimer = setTimeout(() => void watched(keep.fold(replica.model.toBinary(), replica.vector)), keep.isLong ? 0 : FOLD_AFTER_MS);
}

replica.addEventListener("local", (event) => void watched(keep.append([/** @type {any} */ (event).detail.entry], true)));
replica.addEventListener("remote", (event) => {
  void watched(keep.append(/** @type {any} */ (event).detail.entries, false));
  foldSoon();
});
// A snapshot is kept at once: what comes next builds on it.
replica.addEventListener("snapshot", () => void watched(keep.fold(replica.model.toBinary(), replica.vector)));
replica.addEventListener("acknowledged", foldSoon);

const status = () => showBadge(byId("badge"), link.status, replica.unsent.length, link.refused !== undefined);
for (const type of ["local", "acknowledged", "snapshot", "remote"]) replica.addEventListener(type, status);
link.addEventListener("status", status);
link.addEventListener("refused", (event) => {
  toast(`The node refused an edit: ${/** @type {any} */ (event).detail}. What is typed here stays in this browser.`, { error: true });
});

replica.addEventListener("welcome", () => places.note(place, replica.store));
link.addEventListener("strange", (event) => {
  const shown = { title: replica.text("title"), text: replica.text("text") };
  // Everything of this window hangs on what is gone, its session too: a new one begins with what the node has.
  if (places.leave(place, /** @type {CustomEvent} */ (event).detail, shown)) return location.reload();
  showLeft(byId("left"), [{ name: "", ...shown }], () => {});
  byId("text").readOnly = byId("title").readOnly = true;
});
showLeft(byId("left"), places.left(place), (name) => places.forget(name));

let drawing = 0;
function draw() {
  // Many changes in one frame are drawn once.
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    drawCarets(byId("copy"), replica, [...people.others.values()]);
    const count = replica.text("text").trim().split(/\s+/u).filter(Boolean).length;
    byId("count").textContent = `${count} ${count === 1 ? "word" : "words"}`;
    document.title = `${replica.text("title") || doc} · Weft`;
  });
}
for (const type of ["local", "remote", "snapshot"]) replica.addEventListener(type, draw);
people.addEventListener("change", draw);
people.addEventListener("change", () => showPeople(byId("people"), people, hueOf(peer)));
showPeople(byId("people"), people, hueOf(peer));

link.isHeld = () => title.composing || text.composing;
for (const field of [title, text]) field.addEventListener("composed", () => link.receive());

byId("title").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  byId("text").focus();
});
byId("name").value = people.name;
byId("name").addEventListener("change", () => {
  const name = byId("name").value.trim();
  if (!name) return void (byId("name").value = people.name);
  settings.set("name", name);
  people.rename(name);
  showPeople(byId("people"), people, hueOf(peer));
});
byId("doc").textContent = doc;
startTheme(byId("theme"));

addEventListener("pagehide", () => keep.close());
addEventListener("online", () => link.connect());
// A lost network is not always told to the socket.
addEventListener("offline", () => link.disconnect());
addEventListener("visibilitychange", () => document.visibilityState === "visible" && link.connect());

status();
draw();
byId("text").readOnly = byId("title").readOnly = false;
byId("text").focus();
link.connect();
void navigator.serviceWorker?.register("/sw.js").catch(() => {
  // Without it the page needs its node to load; nothing else does.
});

/** Which text this is and in which store: the node says, or said the last time. @returns {Promise<{ doc: string, store?: string }>} */
async function whichText() {
  try {
    const { doc: name, store: id } = await (await fetch("/api/note")).json();
    settings.set("doc", name);
    return { doc: name, store: id ?? undefined };
  } catch {
    return { doc: settings.get("doc", "demo") };
  }
}

/** A name until there is a better one. @param {string} of */
function nameFor(of) {
  const names = ["Heron", "Wren", "Finch", "Lark", "Swift", "Robin", "Plover", "Dunlin", "Siskin", "Linnet", "Martin", "Teal"];
  return names[hueOf(of) / 30];
}
