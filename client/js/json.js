/** The JSON encoding of the messages of a server (PROTOCOL.md, sections 1 and 4), and base64. */
import { malformed } from './errors.js';

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

/** As URLs and secrets have it. @param {Uint8Array} bytes */
export const toBase64Url = (bytes) => toBase64(bytes).replace(/=/g, '').replace(/\+/g, '-').replace(/\//g, '_');

/** @param {string} base64 */
export function fromBase64(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** @param {string} text of a server */
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw malformed('JSON', cause);
  }
}

/**
 * @param {{type?: string, b64?: string, key?: string, removed?: boolean}} json a parsed message of a server, which is taken at
 *   its word
 * @param {string} [type] the type where it stands elsewhere: SSE and poll leave it out of publications
 * @returns {import('./wire.js').Message}
 */
export function fromJson({ b64, ...json }, type = json.type) {
  /** @type {any} */
  const message = { ...json, type };
  if (type === 'publication') {
    const { key = '', removed = false } = json;
    Object.assign(message, { key, removed }, b64 !== undefined && { data: fromBase64(b64) });
  }
  return message;
}
