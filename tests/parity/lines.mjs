/** The JavaScript agent in node, one JSON text a line: {"n": number, "request": ...} in, {"n", "answer"} out. */
import { createInterface } from 'node:readline';
import * as fulmar from '../../client/js/fulmar.js';
import { createAgent } from './agent.mjs';
import { JsonWebSocket, QuietWebSocket } from './websocket.mjs';

const handle = createAgent(fulmar, { WebSocket: QuietWebSocket, JsonWebSocket });

for await (const line of createInterface({ input: process.stdin })) {
  const { n, request } = JSON.parse(line);
  handle(request).then((answer) => process.stdout.write(`${JSON.stringify({ n, answer })}\n`));
}
process.exit(0);
