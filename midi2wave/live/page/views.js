// The pictures: a piano roll and a spectrogram, both drawn at the sound's own time.

import { MAX_PITCH, MIN_PITCH } from "./keys.js";

const LIVE_SECONDS = 8;
const MAX_HZ = 8000;
const MIN_DB = -88;
const MAX_DB = -25;
const PIXELS_PER_SECOND = 90;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas at the screen's own resolution; returns its context and size in CSS pixels.
function prepare(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return { context, width, height };
}

// Notes are [onset, offset, pitch, velocity] in seconds; an offset of null is that of a key that is down.
export function drawRoll(canvas, { notes, from, to, now, ready }) {
  const { context, width, height } = prepare(canvas);
  context.clearRect(0, 0, width, height);
  const x = (seconds) => ((seconds - from) / (to - from)) * width;
  const row = height / (MAX_PITCH - MIN_PITCH + 1);
  context.fillStyle = colour("--grid");
  for (let pitch = 24; pitch <= MAX_PITCH; pitch += 12) context.fillRect(0, (MAX_PITCH - pitch + 1) * row, width, 1);
  if (ready !== undefined) {
    context.fillStyle = colour("--ready");
    context.fillRect(0, height - 4, x(ready), 4);
  }
  const [rest, accent] = [colour("--note"), colour("--accent")];
  for (const [onset, offset, pitch, velocity] of notes) {
    const end = offset ?? now;
    if (end < from || onset > to) continue;
    const sounds = onset <= now && now < end;
    context.globalAlpha = sounds ? 1 : 0.35 + (0.45 * velocity) / 127;
    context.fillStyle = sounds ? accent : rest;
    context.fillRect(x(onset), (MAX_PITCH - pitch) * row, Math.max(2, x(end) - x(onset) - 0.5), Math.max(2, row));
  }
  context.globalAlpha = 1;
  context.fillStyle = accent;
  context.fillRect(x(now) - 1, 0, 2, height);
}

export function liveWindow(now) {
  return { from: now - LIVE_SECONDS * 0.9, to: now + LIVE_SECONDS * 0.1 };
}

// A spectrogram that moves to the left as the sound does.
export class Spectrogram {
  constructor(canvas) {
    this.canvas = canvas;
    this.lastTime = null;
  }

  draw(analyser, contextTime) {
    const { context, width, height } = prepare(this.canvas);
    const scale = window.devicePixelRatio || 1;
    const elapsed = this.lastTime === null ? 0 : contextTime - this.lastTime;
    const columns = Math.min(width, Math.floor(elapsed * PIXELS_PER_SECOND));
    if (this.lastTime !== null && columns < 1) return;
    this.lastTime = this.lastTime === null ? contextTime : this.lastTime + columns / PIXELS_PER_SECOND;
    if (elapsed > 1) this.lastTime = contextTime;
    if (!this.bins || this.bins.length !== analyser.frequencyBinCount) {
      this.bins = new Float32Array(analyser.frequencyBinCount);
    }
    analyser.getFloatFrequencyData(this.bins);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.canvas, -Math.round(columns * scale), 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const hzPerBin = analyser.context.sampleRate / 2 / this.bins.length;
    const top = Math.min(MAX_HZ, analyser.context.sampleRate / 2);
    for (let y = 0; y < height; y += 1) {
      // The mel scale, on which an octave of low notes is as visible as one of high notes.
      const mel = (1 - y / height) * Math.log1p(top / 700);
      const bin = Math.min(this.bins.length - 1, Math.round((700 * Math.expm1(mel)) / hzPerBin));
      const level = Math.min(1, Math.max(0, (this.bins[bin] - MIN_DB) / (MAX_DB - MIN_DB)));
      context.fillStyle = heat(level);
      context.fillRect(width - columns, y, columns + 1, 1);
    }
  }
}

// Dark, violet, red, orange, light yellow.
const STOPS = [
  [11, 10, 20],
  [62, 24, 100],
  [160, 44, 110],
  [235, 100, 70],
  [252, 180, 100],
  [252, 250, 200],
];
const HEAT = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const stop = Math.min(STOPS.length - 2, Math.floor(at));
  const mix = STOPS[stop].map((value, c) => Math.round(value + (at - stop) * (STOPS[stop + 1][c] - value)));
  return `rgb(${mix.join(" ")})`;
});

function heat(level) {
  return HEAT[Math.round(255 * level)];
}
