/** A text of the document in an input or textarea: what is typed goes in, what others write comes out. @module */

import { difference } from "./diff.js";
import { idBefore, positionBehind, Undo } from "./undo.js";

/** Tells `caret` when the caret or the text has moved. */
export class Field extends EventTarget {
  /** Whether an input method is at work: until it is done, nothing may change under it. */
  composing = false;
  /** @type {{ start: any, end: any } | undefined} What the selection holds on to while the text changes. */
  #held = undefined;

  /**
   * @param {HTMLInputElement | HTMLTextAreaElement} element
   * @param {import("../sync/replica.js").Replica} replica
   * @param {"title" | "text"} key
   */
  constructor(element, replica, key) {
    super();
    this.element = element;
    this.replica = replica;
    this.key = key;
    this.undo = new Undo(replica, key);
    element.value = replica.text(key);
    element.addEventListener("input", () => this.#typed());
    element.addEventListener("beforeinput", (event) => this.#before(/** @type {InputEvent} */ (event)));
    element.addEventListener("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    element.addEventListener("compositionstart", () => (this.composing = true));
    element.addEventListener("compositionend", () => {
      this.composing = false;
      this.#typed();
      this.dispatchEvent(new Event("composed"));
    });
    for (const moved of ["focus", "blur"]) element.addEventListener(moved, () => this.#moved());
    document.addEventListener("selectionchange", () => document.activeElement === element && this.#moved());
    replica.addEventListener("before", () => this.#hold());
    replica.addEventListener("remote", () => this.show());
    replica.addEventListener("snapshot", () => this.show());
  }

  /** Brings the element to what the document says; the selection stays with its characters. */
  show() {
    const { element } = this;
    const text = this.replica.text(this.key);
    const held = this.#held;
    this.#held = undefined;
    if (element.value === text) return;
    const direction = element.selectionDirection ?? "none";
    const { scrollTop } = element;
    element.value = text;
    if (held && document.activeElement === element) {
      const node = this.replica.str(this.key);
      element.setSelectionRange(positionBehind(node, held.start), positionBehind(node, held.end), direction);
      element.scrollTop = scrollTop;
    }
    this.#moved();
  }

  #hold() {
    const node = this.replica.str(this.key);
    const { selectionStart, selectionEnd } = this.element;
    this.#held = { start: idBefore(node, selectionStart ?? 0), end: idBefore(node, selectionEnd ?? 0) };
  }

  #typed() {
    const { element } = this;
    // A title has one line, however it was pasted.
    const edit = difference(this.replica.text(this.key), element.value, element.selectionEnd ?? element.value.length);
    if (edit) this.undo.edit(edit);
    this.#moved();
  }

  /** @param {InputEvent} event */
  #before(event) {
    if (event.inputType === "historyUndo" || event.inputType === "historyRedo") {
      event.preventDefault();
      this.#back(event.inputType === "historyRedo");
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    this.#back(key === "y" || event.shiftKey);
  }

  /** @param {boolean} again */
  #back(again) {
    const at = again ? this.undo.redo() : this.undo.undo();
    if (at === undefined) return;
    this.element.value = this.replica.text(this.key);
    this.element.setSelectionRange(at, at);
    this.#moved();
  }

  #moved() {
    this.dispatchEvent(new Event("caret"));
  }
}
