/** The page: wires the client, the list and the open game together. @module */

import { newClientId } from "/client/index.js";
import { byId, h, toast } from "./dom.js";
import { Games, write } from "./games.js";
import { sendOrphans, startSession } from "./session.js";
import { openDetail } from "./views/detail.js";
import { newGame } from "./views/editor.js";
import { startList } from "./views/list.js";
import { startStatus } from "./views/status.js";

const { client, store, isKept } = await startSession();
const games = new Games(client);

/** The open game, by the address: `#/games/<id>`. */
function selected() {
  const match = /^#\/games\/([^/]+)$/.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : undefined;
  } catch {
    return undefined;
  }
}

/** @type {{ id: string, close: () => void } | undefined} */
let open = undefined;

/** Shows what the address says; returns whether that is a game that was not shown before. */
function route() {
  // A link into the page, such as the one that skips the list, is no game.
  if (location.hash !== "" && !location.hash.startsWith("#/")) return false;
  const id = selected();
  if (open && open.id === id) return false;
  open?.close();
  open = undefined;
  byId("layout").dataset.view = id === undefined ? "list" : "detail";
  if (id === undefined) {
    byId("main").replaceChildren(h("p", { class: "empty" }, "Pick a game, or make a new one."));
    return false;
  }
  const detail = openDetail(client, id, { leave: () => (location.hash = "#/") });
  byId("main").replaceChildren(detail.element);
  open = { id, close: detail.close };
  return true;
}

async function create() {
  const id = `game-${newClientId().slice(2)}`;
  await write(client, id, () => newGame(`Game ${games.all.length + 1}`));
  location.hash = `#/games/${encodeURIComponent(id)}`;
  route();
  // Its name is what a new game wants first.
  byId("field-name").focus();
  byId("field-name").select();
}

client.on("refused", ({ problem }) => {
  const why = problem.detail ?? problem.title;
  toast(problem.status === 413 ? `An edit is too large, and kept here: ${why}` : `The server refused an edit, which is kept here: ${why}`, { error: true });
});
startStatus(client);
if (!isKept) toast("This browser lets the page keep nothing: what is not sent is lost when the window closes.", { error: true });
startList(games, { selected, create });
addEventListener("hashchange", () => {
  if (route()) byId("main").focus({ preventScroll: true });
});
route();
client.connect();
void games.load();
void sendOrphans(store);
void navigator.serviceWorker?.register("/sw.js").catch(() => {
  // Without it the page needs the server to load; nothing else does.
});
