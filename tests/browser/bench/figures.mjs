/** Figures as they are printed, and the client as it is measured. */
import { EVERYTHING, bundled } from '../../js/size.mjs';

/** @param {number[]} values @param {number} share of them that lie below the answer */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @param {string[][]} rows the first is the head; the first column is text, the others are figures */
export function table(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)) + 2);
  return rows.map((row) => row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[0]))).join('')).join('\n');
}

/** A line that is replaced by the next, where somebody looks. @param {string} text */
export function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
  else if (text) process.stderr.write(`${text}\n`);
}

/** Puts the client of this tree into a page, whatever the server under it serves, and without a request of its own. */
export async function putClient(page) {
  await page.evaluate(await bundle);
}

const bundle = bundled(EVERYTHING, { format: 'iife', globalName: 'fulmar' })
  .then(({ text }) => `${text}\nglobalThis.fulmar = fulmar;\nundefined`);
bundle.catch(() => {});
