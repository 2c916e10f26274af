/** What a receiver acknowledges of numbered frames, and when (PROTOCOL.md, section 9). Times are in ms, of any clock. */
import { ACK_DELAY_MS, ACK_FRAMES, ACK_PAUSE_MS } from './limits.js';

const BITS = 62;
const MASK = (1n << BigInt(BITS)) - 1n;

export function createAcks() {
  let newest = 0;
  // Bit i: `newest - 1 - i` was taken in.
  let bitmap = 0n;
  let dueAt = Infinity;
  // When the first of those was taken in that are not yet acknowledged, and how many there are.
  let first = 0, owed = 0;
  // A number was skipped, or something is sent anyhow.
  let hurried = false;
  let last = -Infinity;

  /** Something is sent anyhow: what there is goes along. @param {number} now */
  function hurry(now) {
    if (!owed) return;
    if (!hurried) dueAt = now;
    hurried = true;
  }

  /** When to acknowledge; Infinity while there is nothing to. */
  const due = () => Math.max(dueAt, last + ACK_PAUSE_MS);

  return {
    hurry,
    due,

    /** Whether this frame was taken in; of one too old to be named it is not known. @param {number} number */
    has(number) {
      const before = newest - number;
      if (before <= 0) return before === 0;
      return before <= BITS && ((bitmap >> BigInt(before - 1)) & 1n) === 1n;
    },

    /** A frame was taken in, or came once more. @param {number} number @param {number} now */
    take(number, now) {
      const ahead = number - newest;
      if (ahead < -BITS) return;
      if (ahead < 0) bitmap |= 1n << BigInt(-ahead - 1);
      else if (ahead > BITS || !newest) bitmap = 0n;
      else if (ahead) bitmap = (((bitmap << 1n) | 1n) << BigInt(ahead - 1)) & MASK;
      newest = Math.max(newest, number);
      if (!owed++) first = now;
      if (ahead > 1) hurry(now);
      else if (hurried) return;
      else if (owed < ACK_FRAMES) dueAt = now + ACK_DELAY_MS;
      else if (owed === ACK_FRAMES) dueAt = Math.max(now, first + ACK_DELAY_MS);
    },

    /** @param {number} now @returns {{newest: number, bitmap: bigint} | null} null before it is due */
    next(now) {
      if (due() > now) return null;
      dueAt = Infinity;
      owed = 0;
      hurried = false;
      last = now;
      return { newest, bitmap };
    },
  };
}
/** @typedef {ReturnType<typeof createAcks>} Acks */
