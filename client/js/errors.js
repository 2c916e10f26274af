/** What can go wrong, and what a close code advises. */

/** An error with the protocol's code; `status` where it came as an HTTP answer. */
export class FulmarError extends Error {
  /**
   * @param {string} code snake_case, from the server or one of `unsupported`, `unreachable`, `closed`, `malformed`
   * @param {string} message
   * @param {{status?: number, cause?: unknown, retry?: number}} [more] `retry`: come back after so many ms
   */
  constructor(code, message, { status, cause, retry } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'FulmarError';
    this.code = code;
    this.status = status;
    this.retry = retry;
  }
}

/** What came is not of the protocol. @param {string} what @param {unknown} [cause] */
export const malformed = (what, cause) => new FulmarError('malformed', what, { cause });

export const CloseCode = Object.freeze({
  NORMAL: 1000,
  /** Never sent: the connection was lost without a close. */
  LOST: 1006,
  GOING_AWAY: 4000,
  NO_HEARTBEAT: 4001,
  SESSION_EXPIRED: 4500,
  FELL_BEHIND: 4501,
  REPLACED: 4900,
  PROTOCOL_ERROR: 4901,
  REFUSED: 4902,
});

/**
 * What a client should do after a close: come back with its cursor, come back without one, or stay away.
 * @param {number} code
 * @returns {'resume' | 'afresh' | 'stop'}
 */
export function advice(code) {
  if (code === CloseCode.NORMAL || (code >= 4900 && code <= 4999)) return 'stop';
  if (code >= 4500 && code <= 4899) return 'afresh';
  return 'resume';
}

/** @param {Response} response @returns {number | undefined} the delay that it asks for, in ms */
export function retryAfter(response) {
  const seconds = response.headers.get('retry-after') ?? '';
  return /^\d+$/.test(seconds) ? Number(seconds) * 1000 : undefined;
}

/**
 * The error that an HTTP answer carries, whatever its body turns out to be.
 * @param {Response} response
 */
export async function errorOf(response) {
  const more = { status: response.status, retry: retryAfter(response) };
  try {
    const { error } = await response.json();
    return new FulmarError(error.code, error.message, more);
  } catch {
    return new FulmarError('unreachable', `The server answered ${more.status}.`, more);
  }
}

/** What errors stand for a close. @type {Map<string, number>} */
const CLOSES = new Map([
  ['bad_cursor', CloseCode.SESSION_EXPIRED],
  ['fell_behind', CloseCode.FELL_BEHIND],
  ['replaced', CloseCode.REPLACED],
  ['malformed', CloseCode.PROTOCOL_ERROR],
]);

/**
 * The close that stands for an error on a transport that has no close codes of its own.
 * @param {unknown} error
 * @returns {{code: number, reason: string, error: unknown, retry?: number}}
 */
export function closeFor(error) {
  const reason = error instanceof Error ? error.message : String(error);
  if (!(error instanceof FulmarError)) return { code: CloseCode.LOST, reason, error };
  const { code, status = 0, retry } = error;
  // A status without the server's own code is somebody's on the way.
  const refused = status >= 400 && status < 500 && !isPassing(error);
  const close = { code: CLOSES.get(code) ?? (refused ? CloseCode.REFUSED : CloseCode.LOST), reason, error };
  return retry === undefined ? close : { ...close, retry };
}

const PASSING = ['closed', 'unreachable', 'shutting_down', 'replaced', 'unknown_session', 'node_full', 'too_many_sessions'];

/** Whether it says nothing about what was asked for: it is worth asking again, on another connection or later. @param {FulmarError} error */
export const isPassing = ({ code, status }) => PASSING.includes(code) || status === 429 || status === 408;

/** What is left of a request when its connection closes. @param {{code: number, reason: string}} close */
export function closedError({ code, reason }) {
  return new FulmarError('closed', `The connection was closed: ${code} ${reason}`.trim());
}
