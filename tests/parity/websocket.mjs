/** The `ws` package as a page's WebSocket. */
import { WebSocket } from 'ws';
import { fromJson, toJson } from '../js/json.mjs';
import { decodeClient, encodeServer } from '../js/peer.mjs';

/** There an error that nobody listens to is not an exception. */
export class QuietWebSocket extends WebSocket {
  constructor(...args) {
    super(...args);
    this.on('error', () => {});
  }
}

/** Speaks JSON with the server, and binary with the client, which speaks no other encoding. */
export class JsonWebSocket {
  #socket;
  #aliases = new Map();

  constructor(url) {
    this.#socket = new QuietWebSocket(url, ['fulmar.v1.json']);
    for (const event of ['onopen', 'onclose', 'onerror']) this.#socket[event] = (said) => this[event]?.(said);
    this.#socket.onmessage = ({ data }) => this.onmessage?.({ data: this.#frame(fromJson(JSON.parse(data))).slice().buffer });
  }

  /** The aliases of a binary connection are the server's; here they are made up, one for each channel and epoch. */
  #frame(message) {
    const place = `${message.channel} ${message.epoch}`;
    if (!this.#aliases.has(place)) this.#aliases.set(place, this.#aliases.size + 1);
    return encodeServer({ ...message, alias: this.#aliases.get(place) });
  }

  send(frame) {
    this.#socket.send(JSON.stringify(toJson(decodeClient(frame))));
  }

  close(...why) {
    this.#socket.close(...why);
  }
}
