/** The `ws` package as a page's WebSocket: there an error that nobody listens to is not an exception. */
import { WebSocket } from 'ws';

export class QuietWebSocket extends WebSocket {
  constructor(...args) {
    super(...args);
    this.on('error', () => {});
  }
}
