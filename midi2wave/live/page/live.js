// Live playing: keys go to the server, its samples to the loudspeaker, as few as possible in between.

import { BufferTarget } from "./buffer.js";

const MAX_LATENCIES = 50;
const MAX_NOTES = 500;

export class Live {
  constructor(connection, player) {
    this.connection = connection;
    this.player = player;
    this.active = false;
    this.target = new BufferTarget();
    this.latencies = []; // from key to loudspeaker, in milliseconds
    this.notes = []; // for the piano roll
    this.pressed = new Map(); // pitch -> its notes that the server has not placed yet, oldest first
    player.addEventListener("report", () => this.active && this.afterReport());
    player.addEventListener("dropout", () => this.active && this.afterDropout());
    connection.on("block", (block) => this.addBlock(block));
    connection.on("started", (message) => this.isMine(message) && (this.leadMs = message.lead_ms));
    connection.on("placed", (message) => this.active && this.place(message));
    connection.on("idle", (message) => this.isMine(message) && this.pause());
    connection.on("awake", (message) => this.isMine(message) && this.asleep && this.wake());
    connection.on("ended", (message) => this.isMine(message) && this.stop());
  }

  isMine(message) {
    return this.active && message.stream === this.stream;
  }

  // How much sound waits in the page, as a target.
  get bufferSeconds() {
    return this.target.seconds;
  }

  // Begin, if it is not so already; keys may be sent at once.
  async start(request, rate) {
    if (this.active) return;
    this.active = true;
    this.ready = false;
    this.asleep = false;
    this.early = [];
    this.waiting = []; // notes whose sound has not been played yet
    this.notes = [];
    this.pressed.clear();
    this.leadMs = 0;
    this.rate = rate;
    this.stream = this.connection.begin({ type: "live", ...request });
    const { stream } = this;
    await this.player.open(rate);
    if (!this.active || this.stream !== stream) return;
    this.player.begin(0, this.bufferSeconds);
    this.ready = true;
    for (const samples of this.early) this.player.push(samples);
    this.sendCredit();
  }

  stop() {
    if (!this.active) return;
    this.active = false;
    this.connection.send({ type: "stop" });
    this.player.end?.();
  }

  key({ pitch, velocity, time }) {
    if (this.asleep) this.wake();
    this.connection.send({ type: "key", pitch, velocity, time });
    const note = this.notes.findLast((one) => one[2] === pitch && one[1] === null);
    if (note) note[1] = Math.max(note[0] < Infinity ? note[0] + 0.03 : 0, this.now + this.player.state.buffered / this.rate + this.leadMs / 1000);
    if (!velocity) return;
    const added = [Infinity, null, pitch, velocity];
    this.notes.push(added);
    if (this.notes.length > MAX_NOTES) this.notes.shift();
    this.pressed.set(pitch, [...(this.pressed.get(pitch) ?? []), added]);
  }

  pedal({ pedal, value }) {
    this.connection.send({ type: "pedal", pedal, value });
  }

  get now() {
    return this.player.state.position / this.rate;
  }

  get latencyMs() {
    const sorted = [...this.latencies].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
  }

  place({ pitch, time, sample }) {
    this.waiting.push({ time, sample });
    const note = this.pressed.get(pitch)?.shift();
    if (!note) return;
    note[0] = sample / this.rate;
    if (note[1] !== null) note[1] = Math.max(note[1], note[0] + 0.03); // It was released before it was placed.
  }

  addBlock({ stream, samples }) {
    if (!this.active || stream !== this.stream) return;
    if (this.ready) this.player.push(samples);
    else this.early.push(samples);
  }

  afterReport() {
    if (!this.ready) return;
    const { position, buffered, time, waiting } = this.player.state;
    if (!waiting && !this.asleep && this.target.note(buffered / this.rate, time)) this.player.setPrebuffer(this.bufferSeconds);
    this.sendCredit();
    while (this.waiting.length && this.waiting[0].sample <= position) {
      const { time, sample } = this.waiting.shift();
      if (!time) continue;
      this.latencies.push(this.player.timeOf(sample) - time);
      if (this.latencies.length > MAX_LATENCIES) this.latencies.shift();
    }
  }

  sendCredit() {
    if (this.asleep) return;
    const until = this.player.state.position + Math.round(this.bufferSeconds * this.rate);
    this.connection.send({ type: "credit", stream: this.stream, until });
  }

  afterDropout() {
    this.target.noteDropout(this.player.state.time);
    this.player.setPrebuffer(this.bufferSeconds);
  }

  // Nothing sounds, and the server generates nothing until the next key.
  pause() {
    this.asleep = true;
    this.player.pause(true);
  }

  wake() {
    this.asleep = false;
    this.player.pause(false);
  }
}
