/**
 * The development page: the figures of this machine over four transports side by side. Each panel is a client of its
 * own that may use one transport; they share the feed of events.
 */
import { buildCursor, connect, parseCursor } from '/client/fulmar.js';

const STATE = ['host:cpu', 'host:memory', 'host:network', 'host:load', 'host:info'];
const EVENTS = 'event:host';
/** No position of any epoch: what the log of events still holds is sent after a gap. */
const FROM_THE_START = buildCursor([{ channel: EVENTS, epoch: '0', offset: 0 }]);

const WINDOW = 30_000;
/** The charts are drawn when they have moved by this part of a device pixel, and at most so often. */
const STEP = 0.6;
const MIN_FRAME_MS = 1000 / 30;
const MAX_FRAME_MS = 80;
/** Charts out of sight are drawn so often: whoever jumps to them, prints the page or takes a picture of all of it finds them. */
const UNSEEN_FRAME_MS = 1000;
const FIGURES_MS = 250;
const MAX_EVENTS = 60;

const TRANSPORTS = {
  webtransport: { name: 'WebTransport', short: 'WT', encoding: 'binary, datagrams and streams' },
  websocket: { name: 'WebSocket', short: 'WS', encoding: 'binary, one ordered socket' },
  sse: { name: 'Server-sent events', short: 'SSE', encoding: 'JSON, one endless answer' },
  poll: { name: 'Long-polling', short: 'LP', encoding: 'JSON, one answer at a time' },
};
const NAMES = Object.keys(TRANSPORTS);

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const clock = () => performance.timeOrigin + performance.now();

// ---- words ----------------------------------------------------------------------------------------------------------

/** @param {number} bytes @returns {[string, string]} */
function inUnits(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit++) bytes /= 1000;
  return [unit === 0 || bytes >= 99.95 ? bytes.toFixed(0) : bytes.toFixed(1), units[unit]];
}
const perSecond = (bytes) => {
  const [amount, unit] = inUnits(bytes);
  return `${amount >= 10 ? Math.round(amount) : amount} ${unit}/s`;
};

/** Of a cursor over several channels the entry that moves the most. @param {string} cursor */
function shortened(cursor) {
  const entries = parseCursor(cursor);
  const { hash, epoch, offset } = entries.reduce((most, entry) => (entry.offset > most.offset ? entry : most));
  return `${hash.slice(0, 4)}….${epoch}.${offset.toString(36)}${entries.length > 1 ? ` +${entries.length - 1}` : ''}`;
}

/** Why a transport does not work here and what can be done about it. `final`: it is not tried again. */
function explain(transport, error, final) {
  const { name } = TRANSPORTS[transport];
  if (error.code === 'unsupported') {
    return isSecureContext
      ? [`This browser has no ${name}.`, 'Chrome, Edge and Opera from 97, Firefox from 114 and Safari from 26.4 have it.']
      : [`${name} needs a secure page.`, 'Open this page on localhost or 127.0.0.1, or over HTTPS.'];
  }
  if (final) return [`The server refused: ${error.message}`, 'Reload the page to try again.'];
  if (error.status) return [`The server refused: ${error.message}`, 'It is asked again in a while.'];
  if (error.code === 'closed') return ['The connection was lost.', `It goes on from its cursor when the server is back. (${error.message})`];
  if (error.code === 'held_back') return [error.message, 'A proxy that buffers would do that. The other transports carry the same data meanwhile.'];
  if (transport === 'webtransport' && error.message.includes('UDP')) {
    return [error.message, 'A firewall, proxy or VPN may be holding UDP back. The other transports carry the same data meanwhile.'];
  }
  return ['The server does not answer.', 'Is it still running? The panel goes on from its cursor when it is back.'];
}

/** @param {Element} element @param {string} text */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- charts ---------------------------------------------------------------------------------------------------------

/** The last half minute of one figure. A break is where the connection was lost. */
class Series {
  /** @type {{time: number, value: number}[]} */
  points = [];

  push(time, value) {
    const last = this.points.at(-1);
    if (last && time <= last.time) return;
    if (last?.value === value && this.points.at(-2)?.value === value) {
      last.time = time;
      return;
    }
    // A value that rested is drawn as resting, not as on its way all the time.
    if (last && Number.isFinite(last.value) && time - last.time > 300) {
      this.points.push({ time: time - 100, value: last.value });
    }
    this.points.push({ time, value });
  }

  break() {
    const last = this.points.at(-1);
    if (last && Number.isFinite(last.value)) this.points.push({ time: last.time, value: NaN });
  }

  trim(since) {
    let old = 0;
    while (old + 1 < this.points.length && this.points[old + 1].time < since) old++;
    if (old > 32) this.points.splice(0, old);
  }
}

/** The least of 1, 2, 5, 10, ... that is not below the value. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

const percent = (value) => `${value.toFixed(0)} %`;
const CHARTS = {
  cpu: { channel: 'host:cpu', keys: ['total'], top: () => 100, tell: ([total]) => percent(total) },
  memory: {
    channel: 'host:memory', keys: ['used'], top: (get) => get('host:memory', 'total'),
    tell([used], get) {
      const total = get('host:memory', 'total');
      return [inUnits(used).join(' '), total ? ` of ${inUnits(total).join(' ')}` : ''];
    },
  },
  network: {
    channel: 'host:network', keys: ['rx', 'tx'], floor: 10_000,
    tell: ([rx, tx]) => [`↓ ${perSecond(rx)}`, ` ↑ ${perSecond(tx ?? 0)}`],
  },
  load: {
    channel: 'host:load', keys: ['1', '5', '15'], floor: 1,
    tell: ([one, ...longer]) => [one.toFixed(2), longer.map((value) => ` ${value?.toFixed(2) ?? '–'}`).join('')],
  },
};

class Chart {
  #context;
  #text;
  #scale = 0;

  /** @param {HTMLElement} element */
  constructor(element) {
    Object.assign(this, CHARTS[element.dataset.chart]);
    this.canvas = element.querySelector('canvas');
    this.#context = this.canvas.getContext('2d');
    this.#text = element.querySelector('p');
    this.#text.replaceChildren('–', document.createElement('i'));
    this.series = this.keys.map(() => new Series());
  }

  /** It is empty then. */
  resize({ width, height }) {
    this.width = width;
    this.height = height;
    this.ratio = devicePixelRatio;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
  }

  take({ key, time, value }) {
    const index = this.keys.indexOf(key);
    if (index >= 0 && Number.isFinite(value)) this.series[index].push(time, value);
  }

  /** @param {(channel: string, key: string) => unknown} get what is newest */
  tellNow(get) {
    const values = this.keys.map((key) => get(this.channel, key));
    const told = Number.isFinite(values[0]) ? this.tell(values, get) : '–';
    const [main, side] = Array.isArray(told) ? told : [told, ''];
    const [first, second] = this.#text.childNodes;
    if (first.data !== main) first.data = main;
    write(second, side);
  }

  draw(now, newest, get, colors) {
    const { width, height, ratio } = this;
    if (!width) return;
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);

    const hair = 1 / ratio;
    context.fillStyle = colors.grid;
    for (const part of [0, 0.5, 1]) {
      context.fillRect(0, Math.round((1 + part * (height - 3)) * ratio) / ratio, width, Math.max(hair, 1));
    }

    const since = now - WINDOW;
    for (const series of this.series) series.trim(since);
    const scale = this.#scaled(get);
    const right = width - 5;
    const x = (time) => right - ((now - time) / WINDOW) * right;
    const y = (value) => height - 2 - Math.min(1, Math.max(0, value / scale)) * (height - 5);

    for (let i = this.series.length - 1; i >= 0; i--) {
      const { points } = this.series[i];
      if (!points.length) continue;
      const line = this.#line(points, x, y, newest);
      context.globalAlpha = [1, 0.5, 0.3][i];
      context.strokeStyle = colors.tint;
      context.lineWidth = i ? 1.25 : 1.75;
      context.lineJoin = 'round';
      context.stroke(line.path);
      if (i) continue;
      context.globalAlpha = 0.13;
      context.fillStyle = colors.tint;
      context.fill(line.area);
      const last = points.at(-1);
      if (Number.isFinite(last.value)) {
        context.globalAlpha = 1;
        context.beginPath();
        context.arc(x(Math.max(last.time, newest)), y(last.value), 2.5, 0, 7);
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  /** The line, and the area under it. The last value holds until the newest of the whole panel. */
  #line(points, x, y, newest) {
    const path = new Path2D();
    const area = new Path2D();
    const floor = this.height - 1;
    let from = null;
    let lastX = 0;
    for (const { time, value } of points) {
      if (!Number.isFinite(value)) {
        if (from !== null) area.lineTo(lastX, floor);
        from = null;
        continue;
      }
      lastX = x(time);
      const lastY = y(value);
      if (from === null) {
        from = lastX;
        path.moveTo(lastX, lastY);
        area.moveTo(lastX, floor);
      } else path.lineTo(lastX, lastY);
      area.lineTo(lastX, lastY);
    }
    if (from !== null) {
      const last = points.at(-1);
      lastX = x(Math.max(last.time, newest));
      path.lineTo(lastX, y(last.value));
      area.lineTo(lastX, y(last.value));
      area.lineTo(lastX, floor);
    }
    return { path, area };
  }

  /** Where there is no natural top, one that follows what is seen, in round steps and without jumps. */
  #scaled(get) {
    const fixed = this.top?.(get);
    if (fixed) return fixed;
    let most = this.floor ?? 1;
    for (const { points } of this.series) for (const { value } of points) if (value > most) most = value;
    const wanted = ceiling(most * 1.05);
    this.#scale += this.#scale && !calm.matches ? (wanted - this.#scale) * 0.12 : wanted - this.#scale;
    return this.#scale;
  }
}

// ---- panels ---------------------------------------------------------------------------------------------------------

class Panel {
  #client;
  /** @type {Map<string, import('/client/fulmar.js').LiveState>} */
  #states;
  /** Why there is no connection, as far as is known. @type {Error | null} */
  #problem = null;
  /** When the newest value was published. */
  #newest = 0;
  /** Publications at the last few looks, oldest first. @type {{at: number, count: number}[]} */
  #looks = [];
  #age = NaN;
  #drawnAt = 0;
  #paintedAt = 0;
  #visible = true;

  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.transport = element.dataset.transport;
    const { name, encoding } = TRANSPORTS[this.transport];
    element.append(document.getElementById('panel').content.cloneNode(true));
    const title = element.querySelector('h2');
    title.id = `name-${this.transport}`;
    title.textContent = name;
    element.querySelector('.encoding').textContent = encoding;
    this.figures = Object.fromEntries([...element.querySelectorAll('[data-figure]')].map((at) => [at.dataset.figure, at]));
    this.status = element.querySelector('.status');
    this.cursorText = element.querySelector('.cursor code');
    this.trouble = element.querySelector('.trouble');
    this.charts = [...element.querySelectorAll('.chart')].map((chart) => new Chart(chart));
    this.readColors();
    this.#connect();
    // Before the browser paints: else the charts would be gone until they are drawn next.
    const resized = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) this.charts.find(({ canvas }) => canvas === target).resize(contentRect);
      this.#paint(clock());
    });
    for (const { canvas } of this.charts) resized.observe(canvas);
  }

  #connect() {
    const client = (this.#client = connect(location.origin, { transports: [this.transport] }));
    client.addEventListener('status', () => this.#follow());
    client.addEventListener('error', ({ detail: error }) => {
      this.#problem = error;
      // What the browser does not have, it will not have in a minute.
      if (error.code === 'unsupported') client.close();
    });
    client.addEventListener('close', ({ detail }) => {
      this.#problem = detail.error ?? this.#problem ?? new Error(detail.reason);
      this.#explain(true);
    });
    this.#states = new Map(STATE.map((channel) => [channel, client.state(channel)]));
    for (const [channel, state] of this.#states) state.onChange((change) => this.#take(channel, change));
    client.subscribe(EVENTS, { after: FROM_THE_START, onPublication: (event) => feed.add(event, this.transport) });
    this.#follow();
  }

  /** Shows how the client is doing. */
  #follow() {
    switch (this.#client.status) {
      case 'connecting': return this.#show('connecting', 'connecting');
      case 'open':
        this.trouble.hidden = true;
        return this.#show('live', 'live');
      case 'waiting': {
        for (const { series } of this.charts) for (const one of series) one.break();
        if (this.#problem) this.#explain(false);
      }
    }
  }

  #explain(final) {
    const [why, what] = explain(this.transport, this.#problem, final);
    write(this.trouble.querySelector('.why'), why);
    write(this.trouble.querySelector('.what'), what);
    write(this.trouble.querySelector('.next'), '');
    this.trouble.hidden = false;
    this.#show(final ? 'failed' : 'waiting', final ? 'unavailable' : 'reconnecting');
  }

  /** How often the charts move by a step. */
  get pace() {
    const { width = 300, ratio = 1 } = this.charts[0];
    return Math.min(MAX_FRAME_MS, Math.max(MIN_FRAME_MS, (WINDOW / (width * ratio)) * STEP));
  }

  readColors() {
    const style = getComputedStyle(this.element);
    this.colors = { tint: style.getPropertyValue('--tint'), grid: style.getPropertyValue('--grid') };
  }

  #show(state, text) {
    this.element.dataset.state = state;
    write(this.status, text);
  }

  /** @param {string} channel @param {import('/client/fulmar.js').Change} change */
  #take(channel, change) {
    if (change.removed) return;
    this.#newest = Math.max(this.#newest, change.time);
    for (const chart of this.charts) if (chart.channel === channel) chart.take(change);
    if (channel === 'host:info') showHost(change.value);
  }

  #get = (channel, key) => this.#states.get(channel).get(key);

  /** The numbers, a few times a second. */
  tell(now) {
    const { bytes, publications } = this.#client.stats();
    this.#looks.push({ at: now, count: publications });
    while (this.#looks.length > 2 && now - this.#looks[0].at > 3000) this.#looks.shift();
    const [first] = this.#looks;
    if (this.#newest) {
      const long = this.#age >= 9999.5;
      write(this.figures.age, (long ? this.#age / 1000 : this.#age).toFixed(0));
      write(this.figures.scale, long ? 's' : 'ms');
      if (now > first.at) {
        write(this.figures.rate, (((publications - first.count) * 1000) / (now - first.at)).toFixed(0));
      }
      const [amount, unit] = inUnits(Math.max(bytes.received, 1000));
      write(this.figures.bytes, amount);
      write(this.figures.unit, unit);
    }
    const { cursor, retryAt } = this.#client;
    if (this.#newest && cursor) {
      write(this.cursorText, shortened(cursor));
      this.cursorText.title = cursor;
    }
    if (retryAt) {
      const left = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
      write(this.trouble.querySelector('.next'), `Next try in ${left} s`);
    }
    for (const chart of this.charts) chart.tellNow(this.#get);
  }

  draw(now) {
    const newest = this.#newest;
    if (newest) {
      const age = Math.max(0, now - newest);
      const weight = 1 - Math.exp(-(now - this.#drawnAt) / 1200);
      // While values come the age is a saw tooth, and its mean is told; when none come it just grows.
      this.#age = age > 1000 || Number.isNaN(this.#age) ? age : this.#age + (age - this.#age) * weight;
      this.#drawnAt = now;
    }
    if (this.#visible || now - this.#paintedAt >= UNSEEN_FRAME_MS) this.#paint(now);
  }

  #paint(now) {
    this.#paintedAt = now;
    for (const chart of this.charts) chart.draw(now, this.#newest, this.#get, this.colors);
  }

  /** @param {boolean} visible in sight, or nearly */
  set visible(visible) {
    this.#visible = visible;
    if (visible) this.#paint(clock());
  }
}

function showHost({ hostname, os, kernel, cpu, cores }) {
  for (const [name, text, title] of [['hostname', hostname, ''], ['os', os, kernel], ['cores', String(cores), cpu]]) {
    const element = document.querySelector(`[data-host="${name}"]`);
    write(element, text || '–');
    element.title = title || text || '';
  }
}

// ---- events ---------------------------------------------------------------------------------------------------------

/** Each event once, with the delay with which each transport brought it. */
class Feed {
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();
  #list = document.querySelector('.log ol');
  #opened = clock();

  add({ epoch, offset, time, data }, transport) {
    const id = `${epoch}/${offset}`;
    let row = this.#rows.get(id);
    if (!row) {
      row = this.#row(time, data);
      this.#rows.set(id, row);
      this.#place(row, time);
    }
    // What is older than the page was history when it came, and its delay would say nothing.
    const delay = time < this.#opened ? '✓' : `${Math.max(0, clock() - time).toFixed(0)} ms`;
    write(row.querySelector(`[data-transport="${transport}"]`), delay);
  }

  #row(time, { level, message }) {
    const row = document.createElement('li');
    const part = (name, className, text) => {
      const element = document.createElement(name);
      element.className = className;
      element.textContent = text;
      row.append(element);
      return element;
    };
    row.className = level === 'warn' ? 'warn' : 'info';
    const when = new Date(time);
    part('time', '', when.toLocaleTimeString('en-GB')).dateTime = when.toISOString();
    part('span', 'level', '');
    const said = part('span', 'said', message);
    if (level === 'warn') {
      const spoken = document.createElement('span');
      spoken.className = 'sr';
      spoken.textContent = 'Warning: ';
      said.prepend(spoken);
    }
    const lanes = part('span', 'lanes', '');
    lanes.ariaHidden = 'true';
    for (const transport of NAMES) {
      const lane = document.createElement('span');
      lane.className = transport === 'webtransport' ? 'lane star' : 'lane';
      lane.dataset.transport = transport;
      lane.dataset.lane = TRANSPORTS[transport].short;
      lane.textContent = '–';
      lanes.append(lane);
    }
    return row;
  }

  /** The newest on top; history can come after what is new. */
  #place(row, time) {
    document.querySelector('.quiet').hidden = true;
    row.dataset.at = time;
    const older = [...this.#list.children].find((other) => Number(other.dataset.at) <= time);
    this.#list.insertBefore(row, older ?? null);
    if (this.#rows.size <= MAX_EVENTS) return;
    const last = this.#list.lastElementChild;
    last.remove();
    for (const [id, other] of this.#rows) if (other === last) this.#rows.delete(id);
  }
}

// ---- the page -------------------------------------------------------------------------------------------------------

const feed = new Feed();
const panels = [...document.querySelectorAll('.panel')].map((element) => new Panel(element));

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    panels.find(({ element }) => element === target).visible = isIntersecting;
  }
}, { rootMargin: '300px' });
for (const panel of panels) watcher.observe(panel.element);

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const panel of panels) panel.readColors();
});

let toldAt = 0;
let drawnAt = 0;
requestAnimationFrame(function frame(at) {
  requestAnimationFrame(frame);
  if (at - drawnAt < (calm.matches ? 1000 : panels[0].pace) - 4) return;
  drawnAt = at;
  const now = clock();
  for (const panel of panels) panel.draw(now);
  if (at - toldAt < FIGURES_MS) return;
  toldAt = at;
  for (const panel of panels) panel.tell(now);
});
