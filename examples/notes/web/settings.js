/** What a browser remembers of its user. Where it forbids that, it lasts as long as the page. @module */

export const settings = {
  /** @param {string} name @param {string} otherwise */
  get(name, otherwise) {
    try {
      return localStorage.getItem(`weft-notes-${name}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  /** @param {string} name @param {string} value */
  set(name, value) {
    try {
      localStorage.setItem(`weft-notes-${name}`, value);
    } catch {
      // Private windows may refuse; nothing depends on it.
    }
  },
};
