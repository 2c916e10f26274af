/** What a receiver acknowledges of numbered frames, and when (PROTOCOL.md, section 9). Times are in ms, of any clock. */

/** How long a frame waits for others to be acknowledged with it, how many do not wait for more, and the shortest time from one to the next. */
export const ACK_DELAY_MS = 20, ACK_FRAMES = 4, ACK_PAUSE_MS = 4;

const BITS = 62;
const MASK = (1n << BigInt(BITS)) - 1n;

export class Acknowledgements {
  #newest = 0;
  /** Bit i: `#newest - 1 - i` was taken in. */
  #bitmap = 0n;
  #due = Infinity;
  /** When the first of those was taken in that are not yet acknowledged, and how many there are. */
  #first = 0;
  #owed = 0;
  /** A number was skipped, or something is sent anyhow. */
  #hurried = false;
  #last = -Infinity;

  /** Whether this frame was taken in; of one too old to be named it is not known. @param {number} number */
  has(number) {
    const before = this.#newest - number;
    if (before <= 0) return before === 0;
    return before <= BITS && ((this.#bitmap >> BigInt(before - 1)) & 1n) === 1n;
  }

  /** A frame was taken in, or came once more. @param {number} number @param {number} now */
  take(number, now) {
    const ahead = number - this.#newest;
    if (ahead < -BITS) return;
    if (ahead < 0) this.#bitmap |= 1n << BigInt(-ahead - 1);
    else if (ahead > BITS || !this.#newest) this.#bitmap = 0n;
    else if (ahead) this.#bitmap = (((this.#bitmap << 1n) | 1n) << BigInt(ahead - 1)) & MASK;
    this.#newest = Math.max(this.#newest, number);
    if (!this.#owed++) this.#first = now;
    if (ahead > 1) this.hurry(now);
    else if (this.#hurried) return;
    else if (this.#owed < ACK_FRAMES) this.#due = now + ACK_DELAY_MS;
    else if (this.#owed === ACK_FRAMES) this.#due = Math.max(now, this.#first + ACK_DELAY_MS);
  }

  /** When to acknowledge; Infinity while there is nothing to. */
  get due() {
    return Math.max(this.#due, this.#last + ACK_PAUSE_MS);
  }

  /** Something is sent anyhow: what there is goes along. @param {number} now */
  hurry(now) {
    if (!this.#owed) return;
    if (!this.#hurried) this.#due = now;
    this.#hurried = true;
  }

  /** @param {number} now @returns {{newest: number, bitmap: bigint} | null} null before it is due */
  next(now) {
    if (this.due > now) return null;
    this.#due = Infinity;
    this.#owed = 0;
    this.#hurried = false;
    this.#last = now;
    return { newest: this.#newest, bitmap: this.#bitmap };
  }
}
