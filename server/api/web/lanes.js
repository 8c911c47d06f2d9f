/**
 * Queues for what is sent to the server, so that a large file does not hold up small ones, and for the small pictures
 * that it makes, so that they do not hold up what the visitor asks for.
 *
 * NOTE: a browser opens six connections to one host, for all its tabs together; follow.js keeps two of them open.
 */

const LARGE_BYTES = 8e6;

class Lane {
  #free;
  #waiting = [];

  constructor(places) {
    this.#free = places;
  }

  async run(task) {
    if (this.#free) this.#free -= 1;
    else await new Promise((resolve) => this.#waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}

const small = new Lane(2);
const large = new Lane(1);
const previews = new Lane(1);

/** Run the task when it is the turn of a file of so many bytes. */
export const inTurn = (bytes, task) => (bytes > LARGE_BYTES ? large : small).run(task);

/** Run the task when it is its turn among the small pictures. */
export const inTurnOfPreviews = (task) => previews.run(task);
