/** The list of games. @module */

import { byId, h, renderList, setText } from "../dom.js";

/**
 * @param {import("../games.js").Games} games
 * @param {{ selected: () => string | undefined, create: () => void }} actions
 */
export function startList(games, { selected, create }) {
  byId("create").addEventListener("click", create);
  let scheduled = false;
  const changed = new Set();
  const update = () => {
    scheduled = false;
    render(games, selected(), changed);
    changed.clear();
  };
  games.addEventListener("change", (event) => {
    for (const id of /** @type {CustomEvent} */ (event).detail) changed.add(id);
    // Many events in a row make one new picture.
    if (!scheduled) requestAnimationFrame(update);
    scheduled = true;
  });
  addEventListener("hashchange", update);
  update();
}

/** @param {import("../games.js").Games} games @param {string | undefined} selected @param {Set<string>} changed */
function render(games, selected, changed) {
  const all = games.all;
  setText(byId("games-count"), all.length > 0 ? String(all.length) : "");
  byId("games-empty").hidden = all.length > 0 || !games.loaded;
  renderList(
    byId("games-list"),
    all,
    ({ id }) => id,
    (game, existing) => {
      const item = existing ?? makeItem(game.id);
      const [link] = item.children;
      if (game.id === selected) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      const { name, status, figures, unsent } = item.parts;
      setText(name, game.name);
      setText(status, String(game.state?.status ?? ""));
      status.dataset.status = String(game.state?.status ?? "");
      setText(figures, figuresOf(game.state));
      unsent.hidden = game.unsent + game.held === 0;
      setText(unsent, game.held > 0 ? "an edit can't be sent" : "not sent");
      unsent.classList.toggle("blocked", game.held > 0);
      if (existing && changed.has(game.id)) flash(item);
      return item;
    },
  );
}

/** @param {string} id */
function makeItem(id) {
  const parts = {
    name: h("span", { class: "game-name" }),
    status: h("span", { class: "chip" }),
    figures: h("span", { class: "figures" }),
    unsent: h("span", { class: "unsent", hidden: true }),
  };
  const link = h("a", { href: `#/games/${encodeURIComponent(id)}` }, parts.name, parts.status, parts.figures, parts.unsent);
  return Object.assign(h("li", {}, link), { parts });
}

/** @param {any} state */
function figuresOf(state) {
  const figures = [];
  if (state === null) return "";
  if (typeof state.level === "number") figures.push(`level ${state.level}`);
  if (typeof state.gold === "number") figures.push(`${state.gold.toLocaleString()} gold`);
  if (Array.isArray(state.players)) figures.push(`${state.players.length} ${state.players.length === 1 ? "player" : "players"}`);
  return figures.join(" · ");
}

/** @param {HTMLElement} element */
export function flash(element) {
  element.classList.remove("flash");
  // Reading a size makes the browser notice that the class was gone, so that the animation starts anew.
  void element.offsetWidth;
  element.classList.add("flash");
}
