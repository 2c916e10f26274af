// Reads the two channels over the best transport that works here, and draws them.
import { open, StateView, advice } from '/client/fulmar.js';

const CHANNELS = ['state:bikes', 'event:deliveries'];
const view = new StateView();
const shown = new Map();
const list = document.getElementById('deliveries');
const status = document.getElementById('status');
const canvas = document.getElementById('town');

function onmessage(message) {
  if (message.channel === 'state:bikes') view.apply(message);
  else if (message.type === 'publication') announce(message.data);
}

function announce({ bike, parcel }) {
  const row = document.createElement('li');
  for (const text of [`Parcel ${parcel}`, bike.replace('bike-', 'Bike ')]) {
    row.append(Object.assign(document.createElement('span'), { textContent: text }));
  }
  list.prepend(row);
  while (list.children.length > 40) list.lastChild.remove();
}

async function connect() {
  let after = null;
  for (;;) {
    for (const transport of ['webtransport', 'websocket', 'poll']) {
      try {
        const connection = await open(transport, { channels: CHANNELS, after, onmessage });
        status.textContent = `live over ${transport}`;
        const close = await connection.closed;
        after = connection.cursor ?? after;
        if (advice(close.code) === 'afresh') after = null;
        if (advice(close.code) === 'stop') {
          status.textContent = `closed: ${close.reason}`;
          return;
        }
        break;
      } catch (error) {
        console.info(`no ${transport}: ${error.message}`);
      }
    }
    status.textContent = 'connecting again';
    await new Promise((resolve) => setTimeout(resolve, 500 + Math.random() * 1000));
  }
}

function draw() {
  const scale = devicePixelRatio;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const style = getComputedStyle(canvas);
  const context = canvas.getContext('2d');
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.strokeStyle = style.getPropertyValue('--street');
  context.lineWidth = 7;
  context.beginPath();
  for (let n = 1; n < 8; n++) {
    context.moveTo((width * n) / 8, 0);
    context.lineTo((width * n) / 8, height);
    context.moveTo(0, (height * n) / 8);
    context.lineTo(width, (height * n) / 8);
  }
  context.stroke();
  context.fillStyle = style.getPropertyValue('--accent');
  for (const [key, { data }] of view.entries('state:bikes')) {
    const at = glide(key, data);
    context.save();
    context.translate((at.x / 1000) * width, (at.y / 1000) * height);
    context.rotate(data.heading * Math.PI * 2);
    context.beginPath();
    context.moveTo(9, 0);
    context.lineTo(-6, -5.5);
    context.lineTo(-3, 0);
    context.lineTo(-6, 5.5);
    context.fill();
    context.restore();
  }
  requestAnimationFrame(draw);
}

// Positions come ten times a second and are drawn more often: each bike glides to where it is.
function glide(key, { x, y }) {
  const at = shown.get(key) ?? { x, y };
  at.x += (x - at.x) * 0.2;
  at.y += (y - at.y) * 0.2;
  shown.set(key, at);
  return at;
}

connect();
requestAnimationFrame(draw);
