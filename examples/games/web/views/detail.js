/** One game: its form, its past, its conflicts, its events, its state vector. @module */

import { diff, equal, parsePointer } from "/client/index.js";
import { confirm, h, setText, toast } from "../dom.js";
import { nameOf, write } from "../games.js";
import { History } from "../history.js";
import { makeConflicts } from "./conflicts.js";
import { makeEditor } from "./editor.js";
import { makeHeld } from "./held.js";
import { makeLog } from "./log.js";
import { makePeople } from "./people.js";
import { makeSnapshots } from "./snapshots.js";
import { makeTimeline } from "./timeline.js";
import { makeVector } from "./vector.js";

/**
 * @param {import("/client/index.js").SyncClient} client
 * @param {string} id
 * @param {{ leave: () => void }} actions
 */
export function openDetail(client, id, { leave }) {
  const manager = client.open(id);
  const history = new History(id);
  /** @type {number | undefined} The version shown, unless it is the latest. */
  let past = undefined;

  const conflicts = makeConflicts(client, id);
  const held = makeHeld(client, id);
  const vector = makeVector(manager, client.clientId);
  const timeline = makeTimeline(history, {
    shown: (version) => {
      past = version;
      showPast();
    },
    restore: async (version) => {
      const state = await history.stateAt(version);
      write(client, id, () => state);
      timeline.show(undefined);
      toast(`Event ${version} is back, as a new one.`);
    },
  });
  const snapshots = makeSnapshots(id, (version) => timeline.show(version));
  timeline.element.append(snapshots.element);
  const log = makeLog(history, client.clientId, (version) => {
    timeline.show(version);
    timeline.element.scrollIntoView({ block: "nearest" });
  });
  const editor = makeEditor({
    write: (edit) => write(client, id, edit),
    clashed: conflicts.add,
  });

  const people = makePeople(client, id, editor.element);

  const title = h("h2", { id: "game-title" });
  const version = h("span", { class: "version", title: "the number of the last event that this window has" });
  const remove = async () => {
    const yes = await confirm({
      title: `Delete “${nameOf(manager.view)}”?`,
      text: "It goes away in every window. Its history stays, so it can be brought back.",
      yes: "Delete game",
    });
    if (!yes) return;
    write(client, id, () => null);
    leave();
  };
  const deleteButton = h("button", { type: "button", class: "button danger", onclick: remove }, "Delete");
  const head = h("div", { class: "detail-head" }, h("a", { class: "button back", href: "#/", "aria-label": "Back to the list" }, "‹"), title, version, people.element, deleteButton);
  const gone = h("p", { class: "empty", hidden: true });
  const form = h("section", { class: "card", "aria-labelledby": "game-title" }, editor.element);
  const element = h(
    "article",
    { class: "detail" },
    head,
    h("div", { class: "detail-main" }, held.element, gone, form, timeline.element, conflicts.element),
    h("div", { class: "detail-side" }, vector.element, log),
  );

  const render = () => {
    const state = manager.view;
    setText(title, state === null ? "No game here" : nameOf(state));
    setText(version, manager.version > 0 ? `v${manager.version}` : "");
    vector.render();
    held.render();
    timeline.setLatest(manager.version);
    if (past === undefined) showState(state, { readOnly: false });
  };

  /** @param {any} state @param {{ readOnly: boolean, changed?: Set<string> }} options */
  const showState = (state, options) => {
    form.hidden = state === null;
    deleteButton.hidden = state === null;
    gone.hidden = state !== null;
    setText(gone, past === undefined ? goneText() : "The game did not exist then.");
    if (state !== null) editor.show(state, options);
  };
  const goneText = () =>
    manager.version > 0
      ? "This game was deleted. Its history is below: pick a moment and restore it."
      : client.status === "live"
        ? "There is no game of this name."
        : "Waiting for the server …";

  const showPast = async () => {
    if (past === undefined) return render();
    const wanted = past;
    try {
      const state = await history.stateAt(wanted);
      const before = await history.stateAt(wanted - 1).catch(() => undefined);
      // The slider may have moved on meanwhile.
      if (past === wanted) showState(state, { readOnly: true, changed: changedFields(before, state) });
    } catch {
      if (past === wanted) toast("Can't show this moment: the server does not answer.", { error: true });
    }
  };

  let reading = false;
  const readHistory = async () => {
    if (reading) return;
    reading = true;
    try {
      // Events may come in while earlier ones are read; those that find no place are read too.
      for (let had = -1; history.version < manager.version && history.version > had; ) {
        had = history.version;
        await history.readLatest(manager.version);
      }
    } catch {
      // Being live again tries again.
    } finally {
      reading = false;
    }
  };

  const stops = [
    client.on("change", ({ documentId }) => documentId === id && render()),
    client.on("event", ({ event }) => {
      if (event.documentId !== id) return;
      if (!history.add(event)) void readHistory();
      history.remember(event.sequenceNum, manager.state);
    }),
    client.on("live", ({ documentId }) => {
      if (documentId !== id) return;
      render();
      void readHistory();
      if (manager.version > 0) void snapshots.read();
    }),
    client.on("conflict", ({ documentId, conflicts: found }) => {
      if (documentId === id) for (const conflict of found) if (!equal(conflict.local, conflict.remote)) conflicts.add(conflict);
    }),
  ];
  render();
  void readHistory();
  return {
    element,
    close: () => {
      for (const stop of stops) stop();
      people.close();
      client.close(id);
    },
  };
}

/** The fields in which two states differ. @param {any} before @param {any} after */
function changedFields(before, after) {
  if (before === undefined || before === null || after === null) return new Set();
  return new Set(diff(before, after).map(({ path }) => parsePointer(path)[0]));
}
