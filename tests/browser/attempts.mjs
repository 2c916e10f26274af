/**
 * What a page can try to get out of a server, or have it do. Sent to pages as text: it uses nothing from outside.
 *
 * Each attempt gets `{ base, channel, after, webtransport: { url, hash } }` and gives what it got, as text; it fails where it got
 * nothing. The channel's publications after `after` are what there is to read; what there is to do is to publish on it.
 */
export function createAttempts() {
  const query = ({ channel, after }) => `?channel=${channel}&after=${encodeURIComponent(after)}`;
  const body = (channel) => JSON.stringify({ channel, data: 'published by the page' });
  const JSON_TYPE = { 'content-type': 'application/json' };

  async function read(answer) {
    const response = await answer;
    if (response.type === 'opaque') throw new Error('the answer is opaque');
    const text = await response.text();
    if (!response.ok) throw new Error(`${response.status} ${text}`);
    return text;
  }

  /** Puts an element into the page and waits for its end; what came of it. */
  function place(element, members, begin = () => {}) {
    return new Promise((resolve, reject) => {
      const placed = Object.assign(document.createElement(element), members, {
        onload: () => resolve(placed),
        onerror: () => reject(new Error(`the ${element} failed`)),
      });
      document.documentElement.append(placed);
      begin(placed);
    });
  }

  function textOf(frame) {
    const { contentDocument } = frame;
    if (!contentDocument) throw new Error('the frame is of another origin');
    const text = contentDocument.documentElement.textContent;
    if (text.includes('"error"')) throw new Error(text);
    return text;
  }

  return {
    'fetch of /poll': (at) => read(fetch(`${at.base}/poll${query(at)}`)),
    'fetch of /poll without CORS': (at) => read(fetch(`${at.base}/poll${query(at)}`, { mode: 'no-cors' })),
    'fetch of /sse without CORS': async (at) => {
      const controller = new AbortController();
      const response = await fetch(`${at.base}/sse${query(at)}`, { mode: 'no-cors', signal: controller.signal });
      try {
        if (!response.body) throw new Error('the answer is opaque');
        const { value } = await response.body.getReader().read();
        const text = new TextDecoder().decode(value);
        if (!response.ok) throw new Error(`${response.status} ${text}`);
        return text;
      } finally {
        controller.abort();
      }
    },
    'frame of /poll': async (at) => textOf(await place('iframe', { src: `${at.base}/poll${query(at)}` })),
    'image of /poll': async (at) => `an image ${(await place('img', { src: `${at.base}/poll${query(at)}` })).width} wide`,
    'script of /poll': async (at) => (await place('script', { src: `${at.base}/poll${query(at)}` })) && 'a script that was loaded',
    'script of the client': async (at) => (await place('script', { src: `${at.base}/client/fulmar.js` })) && 'a script that was loaded',
    'import of the client': async (at) => Object.keys(await import(`${at.base}/client/fulmar.js`)).join(),
    EventSource: (at) => new Promise((resolve, reject) => {
      const source = new EventSource(`${at.base}/sse${query(at)}`);
      source.onmessage = ({ data }) => {
        source.close();
        resolve(data);
      };
      source.onerror = () => {
        source.close();
        reject(new Error('the EventSource failed'));
      };
    }),
    WebSocket: (at) => new Promise((resolve, reject) => {
      const socket = new WebSocket(`${at.base.replace(/^http/, 'ws')}/ws${query(at)}`);
      socket.onmessage = ({ data }) => {
        if (JSON.parse(data).type !== 'publication') return;
        socket.close();
        resolve(data);
      };
      socket.onclose = ({ code }) => reject(new Error(`the WebSocket was closed with ${code}`));
    }),
    WebTransport: async ({ webtransport: { url, hash } }) => {
      const value = Uint8Array.from(atob(hash), (c) => c.charCodeAt(0));
      const session = new WebTransport(url, { serverCertificateHashes: [{ algorithm: 'sha-256', value }] });
      session.closed.catch(() => {});
      await session.ready;
      session.close();
      return 'a session';
    },
    'POST /session': (at) => read(fetch(`${at.base}/session`, { method: 'POST', headers: JSON_TYPE, body: '{}' })),
    'publishing by fetch': (at) => read(fetch(`${at.base}/api/publish`, { method: 'POST', headers: JSON_TYPE, body: body(at.channel) })),
    'publishing by fetch without CORS': (at) =>
      read(fetch(`${at.base}/api/publish`, { method: 'POST', mode: 'no-cors', headers: { 'content-type': 'text/plain' }, body: body(at.channel) })),
    'publishing by form': (at) => {
      // A form that is sent as text/plain is NAME=VALUE, which together is JSON.
      const [name, value] = [body(at.channel).replace(/}$/, ',"x":"'), '"}'];
      const form = Object.assign(document.createElement('form'), {
        action: `${at.base}/api/publish`, method: 'POST', enctype: 'text/plain', target: 'answer',
      });
      form.append(Object.assign(document.createElement('input'), { name, value }));
      document.documentElement.append(form);
      const frame = Object.assign(document.createElement('iframe'), { name: 'answer' });
      document.documentElement.append(frame);
      return new Promise((resolve, reject) => {
        frame.onload = () => {
          try {
            resolve(textOf(frame));
          } catch (error) {
            reject(error);
          }
        };
        form.submit();
      }).finally(() => frame.remove());
    },
  };
}
