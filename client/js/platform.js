/** What the platform knows before a connection does: that there is a network again, or that somebody looks at the page. */

/** @param {import('./client.js').Client} client followed until it is closed */
export function follow(client) {
  const ending = new AbortController();
  const { signal } = ending;
  const on = (/** @type {any} */ target, /** @type {string} */ type, /** @type {(event: any) => void} */ listener) => {
    target?.addEventListener?.(type, listener, { signal });
  };
  const { document, navigator } = /** @type {any} */ (globalThis);

  on(globalThis, 'online', () => client.networkChanged());
  // Chromium tells of each new estimate of how fast the network is, too.
  let type = navigator?.connection?.type;
  on(navigator?.connection, 'change', () => {
    if (navigator.connection.type === type) return;
    type = navigator.connection.type;
    client.networkChanged();
  });
  on(document, 'visibilitychange', () => {
    if (document.visibilityState === 'visible') client.wake();
  });
  on(document, 'resume', () => client.wake());
  // A page that is kept to be shown again (bfcache) may have no connection open meanwhile.
  on(globalThis, 'pagehide', ({ persisted }) => {
    if (persisted) client.suspend();
  });
  on(globalThis, 'pageshow', ({ persisted }) => {
    if (persisted) client.wake();
  });
  client.closed.then(() => ending.abort());
}
