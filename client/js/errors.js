/** What can go wrong, and what a close code advises. */

/**
 * An error with the protocol's code. The server's own come with its reason as the message (PROTOCOL.md, section 6); these are
 * made here:
 *
 * | code                | what it says, and what to do                                                               |
 * |---------------------|--------------------------------------------------------------------------------------------|
 * | `unsupported`       | the platform lacks the transport: use another, or hand one in                              |
 * | `unreachable`       | no server answered, or somebody on the way did: try again later; `cause` may say more      |
 * | `closed`            | the connection or client ended, with the code and the reason: connect anew                 |
 * | `malformed`         | what came is not of this protocol: the versions of client and server do not go together    |
 * | `held_back`         | an event stream does not come through: poll                                                |
 * | `unanswered`        | a publication was sent and may have been made: look before it is published again           |
 * | `too_many_pending`  | publications wait for their answers: wait for some before publishing more                  |
 * | `message_too_large` | more than the server takes in one message: publish less at a time                          |
 */
export class FulmarError extends Error {
  /** The channel that was refused, where it is about one. @type {string | undefined} */
  channel;

  /**
   * @param {string} code snake_case
   * @param {string} message
   * @param {{status?: number, cause?: unknown, retry?: number}} [more] `status`: of the HTTP answer; `retry`: come back after so
   *   many ms
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
    return new FulmarError('unreachable', `The answer was ${more.status}, and not a Fulmar server's: is \`base\` right, is a proxy on the way?`, more);
  }
}

/** @param {string} text that a server answered; somebody on the way may have answered in its stead */
export function fromAnswer(text) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FulmarError('unreachable', 'The answer is not a Fulmar server\'s: is a login page or a proxy on the way?', { cause });
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
  return new FulmarError('closed', `Closed: ${`${code} ${reason}`.trim()}. Connect anew to go on.`);
}
