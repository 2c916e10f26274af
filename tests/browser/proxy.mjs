/** A proxy of the kind that stands before servers: it passes no WebSocket, and may hold event streams back until they end. */
import { once } from 'node:events';
import http from 'node:http';

/** @param {string} base of the server @param {{buffering: boolean}} how */
export async function startProxy(base, { buffering }) {
  const { host, hostname, port } = new URL(base);
  const proxy = { refused: 0 };
  const server = http.createServer((request, response) => {
    const { method, url: path } = request;
    const headers = { ...request.headers, host };
    if (headers.origin) headers.origin = base;
    const onward = http.request({ hostname, port, method, path, headers, agent: false }, async (answer) => {
      if (buffering && answer.headers['content-type']?.startsWith('text/event-stream')) {
        response.writeHead(answer.statusCode, answer.headers).flushHeaders();
        response.end(Buffer.concat(await answer.toArray().catch(() => [])));
      } else {
        response.writeHead(answer.statusCode, answer.headers).flushHeaders();
        answer.on('error', () => response.destroy()).pipe(response);
      }
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  server.on('upgrade', (_, socket) => {
    proxy.refused++;
    socket.on('error', () => {}).end('HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  proxy.base = `http://127.0.0.1:${server.address().port}`;
  proxy.close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return proxy;
}
