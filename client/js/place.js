/**
 * Where the transports are, as `GET /connect` tells it. A server that serves this module puts its own answer here, so that a page
 * need not ask; elsewhere nothing is known.
 * @type {import('./transports/discover.js').Discovery | null}
 */
export default null;
