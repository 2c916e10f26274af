// Reads the two channels over the best transport that works here, and draws them.
import { connect } from '/client/fulmar.js';

const shown = new Map();
const list = document.getElementById('deliveries');
const status = document.getElementById('status');
const canvas = document.getElementById('town');

const client = connect();
const bikes = client.state('state:bikes');
client.subscribe('event:deliveries', { onPublication: ({ data }) => announce(data) });

for (const event of ['status', 'transport']) {
  client.addEventListener(event, () => {
    status.textContent = client.transport ? `live over ${client.transport}` : client.status;
  });
}

function announce({ bike, parcel }) {
  const row = document.createElement('li');
  for (const text of [`Parcel ${parcel}`, bike.replace('bike-', 'Bike ')]) {
    row.append(Object.assign(document.createElement('span'), { textContent: text }));
  }
  list.prepend(row);
  while (list.children.length > 40) list.lastChild.remove();
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
  for (const [key, bike] of bikes) {
    const at = glide(key, bike);
    context.save();
    context.translate((at.x / 1000) * width, (at.y / 1000) * height);
    context.rotate(bike.heading * Math.PI * 2);
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

requestAnimationFrame(draw);
