/** What can go wrong, and what a close code advises. */
import { FELL_BEHIND, GOING_AWAY, LOST, NORMAL, NO_HEARTBEAT, PROTOCOL_ERROR, REFUSED, REPLACED, SESSION_EXPIRED } from './codes.js';

/**
 * An error with the protocol's code. The server's own come with its reason as the message (PROTOCOL.md, section 6); these are
 * made here:
 *
 * | code                 | what it says, and what to do                                                              |
 * |----------------------|-------------------------------------------------------------------------------------------|
 * | `unsupported`        | the platform lacks the transport (pages have WebTransport over https only): use another, or hand one in |
 * | `unreachable`        | no server answered, or somebody on the way did (a proxy, a login page), or the server does not allow this page's origin, or a publication was not sent: try again later; `cause` may say more |
 * | `closed`             | the connection or client ended, with the code and the reason: connect anew                |
 * | `malformed`          | what came is not of this protocol: the versions of client and server do not go together   |
 * | `held_back`          | an event stream does not come through: poll                                               |
 * | `unanswered`         | a publication was sent and may have been made: look before it is published again          |
 * | `too_many_pending`   | publications wait for their answers: wait for some before publishing more                 |
 * | `bad_id`             | a publication with this id waits for its answer: give another id, or wait                 |
 * | `bad_cursor`         | what was handed over as a cursor is none: hand over one that a connection gave, or none   |
 * | `message_too_large`  | more than the server takes in one message: publish less at a time                         |
 * | `already_subscribed` | the connection has the channel: unsubscribe first                                         |
 * | `too_many_channels`  | more than SSE and polling can read: unsubscribe from some                                 |
 */
export class FulmarError extends Error {
  name = 'FulmarError';
  /** The channel that was refused, where it is about one. @type {string | undefined} */
  channel;

  /**
   * @param {string} code snake_case
   * @param {string} message
   * @param {{status?: number, cause?: unknown, retry?: number}} [more] `status`: of the HTTP answer; `retry`: come back after so
   *   many ms
   */
  constructor(code, message, more = {}) {
    super(message, more.cause ? more : {});
    this.code = code;
    this.status = more.status;
    this.retry = more.retry;
  }
}

/** What came is not of the protocol. @param {string} what @param {unknown} [cause] */
export const malformed = (what, cause) => new FulmarError('malformed', what, { cause });

/** Nobody was there, or nothing was. @param {string} message @param {unknown} [cause] */
export const unreachable = (message, cause) => new FulmarError('unreachable', message, { cause });

export const CloseCode = Object.freeze({
  NORMAL,
  /** Never sent: the connection was lost without a close. */
  LOST,
  GOING_AWAY,
  NO_HEARTBEAT,
  SESSION_EXPIRED,
  FELL_BEHIND,
  REPLACED,
  PROTOCOL_ERROR,
  REFUSED,
});

/**
 * What a client should do after a close: come back with its cursor, come back without one, or stay away.
 * @param {number} code
 * @returns {'resume' | 'afresh' | 'stop'}
 */
export function advice(code) {
  if (code === NORMAL || (code >= 4900 && code < 5000)) return 'stop';
  return code >= 4500 && code < 4900 ? 'afresh' : 'resume';
}

/** @param {Response} response @returns {number | undefined} the delay that it asks for, in ms */
export function retryAfter(response) {
  const ms = parseInt(response.headers.get('retry-after') ?? '') * 1000;
  return ms >= 0 ? ms : undefined;
}

/**
 * What a server answered; throws where that is an error, and where somebody on the way answered in its stead.
 * @param {Response} response @param {(text: string) => void} [count]
 */
export async function answerOf(response, count) {
  const { ok, status } = response;
  const more = { status, retry: retryAfter(response) };
  let answer, error;
  try {
    const text = await response.text();
    count?.(text);
    answer = JSON.parse(text);
    if (!ok) error = new FulmarError(answer.error.code, answer.error.message, more);
  } catch (cause) {
    error = new FulmarError('unreachable', `The answer was ${status}, and not Fulmar's: is \`base\` right, or a proxy or login page on the way?`, { ...more, cause });
  }
  if (error) throw error;
  return answer;
}

/** What errors stand for a close. @type {Map<unknown, number>} */
const CLOSES = new Map([
  ['bad_cursor', SESSION_EXPIRED],
  ['fell_behind', FELL_BEHIND],
  ['replaced', REPLACED],
  ['malformed', PROTOCOL_ERROR],
]);

/**
 * The close that stands for an error on a transport that has no close codes of its own.
 * @param {any} error
 * @returns {{code: number, reason: string, error: unknown, retry?: number}}
 */
export function closeFor(error) {
  const { code, status = 0, retry, message: reason = String(error) } = error;
  // A status without the server's own code is somebody's on the way.
  const refused = status >= 400 && status < 500 && !isPassing(error);
  return { code: CLOSES.get(code) ?? (refused ? REFUSED : LOST), reason, error, retry };
}

const PASSING = /^(closed|unreachable|shutting_down|replaced|unknown_session|node_full)$/;

/** Whether it says nothing about what was asked for: it is worth asking again, on another connection or later. @param {FulmarError} error */
export const isPassing = ({ code, status }) => PASSING.test(code) || status === 429 || status === 408;

/** What is left of a request when its connection closes. @param {{code: number, reason: string}} close */
export const closedError = ({ code, reason }) => new FulmarError('closed', `Connect anew: it was closed with ${code} ${reason}`);

/**
 * The application's mistake is the application's to see, and must not stop the reading.
 * @template T @param {((value: T) => void) | null | undefined} handler @param {T} value
 */
export function guarded(handler, value) {
  try {
    handler?.(value);
  } catch (error) {
    setTimeout(() => { throw error; });
  }
}

/**
 * A promise and what settles it. A rejection that nobody waits for is none of the page's errors.
 * @template [T=void]
 */
export function deferred() {
  /** @type {(value: T) => void} */
  let resolve = () => {};
  /** @type {(error: unknown) => void} */
  let reject = () => {};
  /** @type {Promise<T>} */
  const promise = new Promise((...both) => ([resolve, reject] = both));
  promise.catch(() => {});
  return { promise, resolve, reject };
}

/** A bound for what may never come. @template T @param {number} ms @param {Promise<T>} promise @returns {Promise<T>} */
export function within(ms, promise) {
  const { promise: late, reject } = deferred();
  const timer = setTimeout(reject, ms, unreachable(`No answer within ${ms} ms.`));
  return /** @type {Promise<T>} */ (Promise.race([promise, late])).finally(() => clearTimeout(timer));
}
