/** The bar: whether this window is live, how it connects, and the buttons for it. @module */

import { byId, setText, toast } from "../dom.js";
import { settings, TRANSPORT_NAMES, TRANSPORTS } from "../session.js";

/** @param {import("/client/index.js").SyncClient} client */
export function startStatus(client) {
  const update = () => renderBadge(client);
  client.on("status", update);
  client.on("error", ({ problem }) => toast(problem.detail ?? problem.title, { error: true }));
  update();
  setText(byId("client-id"), client.clientId);
  startTransport(client);
  startButtons(client);
  startTheme();
}

/** @param {import("/client/index.js").SyncClient} client */
function renderBadge({ status, transport, unsent }) {
  const badge = byId("badge");
  const waiting = unsent === 0 ? "" : ` · ${unsent} ${unsent === 1 ? "edit" : "edits"} ${status === "live" ? "on the way" : "waiting"}`;
  const words = {
    live: `Live · ${TRANSPORT_NAMES[transport]}`,
    "catching-up": "Catching up",
    connecting: "Connecting",
    offline: "Offline",
    off: "Disconnected",
  };
  badge.dataset.status = status;
  badge.dataset.transport = transport;
  badge.dataset.unsent = String(unsent);
  setText(badge, words[status] + waiting);
  setText(byId("connect"), status === "off" ? "Connect" : "Disconnect");
}

/** @param {import("/client/index.js").SyncClient} client */
function startTransport(client) {
  const select = byId("transport");
  select.value = settings.get("transport", "auto");
  select.addEventListener("change", () => {
    settings.set("transport", select.value);
    client.setTransports(/** @type {any} */ (TRANSPORTS)[select.value]);
  });
}

/** @param {import("/client/index.js").SyncClient} client */
function startButtons(client) {
  byId("connect").addEventListener("click", () => (client.status === "off" ? client.connect() : client.disconnect()));
  const sync = byId("sync");
  sync.addEventListener("click", async () => {
    sync.setAttribute("aria-busy", "true");
    try {
      const taken = await client.syncState();
      toast(taken === 0 ? "In sync: nothing was missing." : `In sync: ${taken} ${taken === 1 ? "change was" : "changes were"} missing.`);
    } catch {
      toast("Can't sync: the server does not answer.", { error: true });
    } finally {
      sync.removeAttribute("aria-busy");
    }
  });
}

const THEMES = ["automatic", "light", "dark"];
const THEME_SIGNS = ["◐", "☀", "☾"];

function startTheme() {
  const button = byId("theme");
  const show = (/** @type {string} */ theme) => {
    document.documentElement.dataset.theme = theme;
    button.setAttribute("aria-label", `Theme: ${theme}`);
    button.title = `Theme: ${theme}`;
    setText(button, THEME_SIGNS[THEMES.indexOf(theme)] ?? THEME_SIGNS[0]);
  };
  show(settings.get("theme", "automatic"));
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
    settings.set("theme", next);
    show(next);
  });
}
