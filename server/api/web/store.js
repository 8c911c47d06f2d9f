/**
 * What this browser remembers: the options until they change, and the pictures of this visit while its tab is open.
 * The API key is in the tab alone. A browser that forbids all this forgets it at the next reload, and no more.
 */

function store(kind, name) {
  return {
    get() {
      try {
        return JSON.parse(window[kind].getItem(name));
      } catch {
        return null;
      }
    },
    set(value) {
      try {
        window[kind].setItem(name, JSON.stringify(value));
      } catch {
        // full or forbidden
      }
    },
  };
}

/** Values of the form's fields, by name. */
export const options = store("localStorage", "options");
/** Ids of the jobs that were sent from this tab, in their order. */
export const visit = store("sessionStorage", "visit");
/** The API key that was typed in. */
export const key = store("sessionStorage", "key");
