/** The slider over a game's past. @module */

import { h, setText } from "../dom.js";
import { timeElement } from "../format.js";

/**
 * @param {import("../history.js").History} history
 * @param {{ shown: (version: number | undefined) => void, restore: (version: number) => void }} actions `shown` hears
 * which version is to be shown; `undefined` for now
 */
export function makeTimeline(history, { shown, restore }) {
  const slider = h("input", { id: "timeline", type: "range", min: "1", step: "1" });
  const position = h("output", { class: "position", for: "timeline" });
  const when = h("span", { class: "when" });
  const back = h("button", { type: "button", class: "button", onclick: () => show(undefined) }, "Back to now");
  const bringBack = h("button", { type: "button", class: "button", onclick: () => at !== undefined && restore(at) }, "Restore this state");
  const buttons = h("div", { class: "buttons" }, back, bringBack);
  const element = h(
    "section",
    { class: "card timeline", "aria-labelledby": "timeline-label" },
    h("div", { class: "timeline-head" }, h("label", { for: "timeline", id: "timeline-label" }, "History"), position, when),
    slider,
    buttons,
  );

  /** @type {number | undefined} The version that is shown, unless it is the latest. */
  let at = undefined;
  let latest = 0;

  const render = () => {
    slider.min = String(Math.min(history.oldest, Math.max(1, latest)));
    slider.max = String(Math.max(1, latest));
    slider.disabled = latest < 2;
    slider.value = String(at ?? latest);
    const words = at === undefined ? `now, event ${latest}` : `event ${at} of ${latest}`;
    setText(position, words);
    slider.setAttribute("aria-valuetext", words);
    const event = history.events[(at ?? latest) - history.first];
    when.replaceChildren(...(event ? [timeElement(event.timestamp)] : []));
    buttons.hidden = at === undefined;
    element.classList.toggle("past", at !== undefined);
  };

  /** @param {number | undefined} version */
  const show = (version) => {
    at = version === undefined || version >= latest ? undefined : version;
    render();
    shown(at);
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  history.addEventListener("change", render);
  return {
    element,
    show,
    /** @param {number} version the latest one */
    setLatest: (version) => {
      latest = version;
      render();
    },
  };
}
