/** Requests over HTTP. */
import { answerOf, unreachable } from './errors.js';

/** @typedef {{channels?: Iterable<string>, after?: string | null, wait?: number}} Query */

/** @param {string} base @param {string} path @param {Query} [query] @returns {string} */
export function urlOf(base, path, { channels = [], after, wait } = {}) {
  const query = new URLSearchParams(Array.from(channels, (channel) => ['channel', channel]));
  if (after) query.set('after', after);
  if (wait) query.set('wait', String(wait));
  return `${base.replace(/\/+$/, '')}${path}?${query}`.replace(/\?$/, '');
}

/**
 * @param {import('./fulmar.js').Placed} where @param {string} path @param {RequestInit} init @param {Query} [query]
 * @returns {Promise<Response>} that is no error
 */
export async function ask({ base, fetch = globalThis.fetch }, path, init, query) {
  const response = await fetch(urlOf(base, path, query), { cache: 'no-store', ...init }).catch((cause) => {
    throw unreachable(`No answer from ${base}: does it allow this origin?`, cause);
  });
  if (!response.ok) await answerOf(response);
  return response;
}
