// Playing of a MIDI file: two takes, of which one sounds while it is generated.

import { Take, wavFile } from "./takes.js";

const PREBUFFER_SECONDS = 0.2;
const FEED_SECONDS = 1;
// Where the model is slower than real time, more is collected before it goes on; the ring buffer holds 8 s.
const SLOW_PREBUFFER_SECONDS = 5;
const SLOW_FEED_SECONDS = 7;
const AHEAD_SECONDS = 60;
const CREDIT_INTERVAL_MS = 200;

export class Files extends EventTarget {
  constructor(connection, player) {
    super();
    this.connection = connection;
    this.player = player;
    this.name = null;
    this.notes = []; // as in the file
    this.takes = [null, null];
    this.current = 0;
    this.playing = false;
    this.position = 0; // in samples, while nothing plays
    this.download = null; // the take that is to be saved when it is complete
    this.lastCredit = 0;
    player.addEventListener("report", () => this.playing && this.afterReport());
    player.addEventListener("dropout", () => this.playing && this.afterDropout());
    connection.on("started", (message) => this.afterStart(message));
    connection.on("block", (block) => this.afterBlock(block));
    connection.on("ended", ({ stream }) => this.afterEnd(stream));
    connection.on("refused", () => (this.playing || this.download) && this.stop());
  }

  get take() {
    return this.takes[this.current];
  }

  get rate() {
    return this.take?.rate ?? this.player.rate ?? 16000;
  }

  get now() {
    return this.playing ? this.player.state.position : this.position;
  }

  open(name, notes, settings, rate) {
    this.stop();
    this.name = name;
    this.notes = notes;
    this.speed = null;
    const take = this.makeTake(settings, rate);
    this.takes = [take, take];
    this.position = 0;
  }

  makeTake(settings, rate) {
    const take = new Take(settings);
    take.rate = rate;
    return take;
  }

  // Other settings for the version that is chosen; it goes on at the same place of the music.
  change(settings, rate) {
    if (!this.take || this.take.key === JSON.stringify(settings)) return;
    const musical = this.musicalSeconds;
    this.takes[this.current] = this.makeTake(settings, rate);
    this.goTo(musical);
  }

  choose(version) {
    const musical = this.musicalSeconds;
    this.current = version;
    this.goTo(musical);
  }

  // The position in seconds of the file at its own tempo.
  get musicalSeconds() {
    return this.take ? (this.now / this.rate) * this.take.settings.tempo : 0;
  }

  goTo(musicalSeconds) {
    this.seek(Math.round((musicalSeconds / this.take.settings.tempo) * this.rate));
  }

  seek(position) {
    const wasPlaying = this.playing && !this.paused;
    this.position = Math.max(0, position);
    if (wasPlaying) this.play();
    else this.halt();
  }

  async play() {
    const { take } = this;
    if (take.length && this.position >= take.length) this.position = 0;
    const { position } = this;
    this.playing = true;
    this.paused = false;
    this.starving = false;
    await this.player.open(take.rate);
    if (!this.playing || take !== this.take || position !== this.position) return;
    this.player.begin(position, PREBUFFER_SECONDS);
    this.fedTo = position;
    if (take.available(position) <= position && !take.reaches(position)) this.generate(take, position);
    this.feed();
    this.sendCredit(true);
    this.emit("change");
  }

  pause() {
    this.paused = !this.paused;
    this.player.pause(this.paused);
    this.emit("change");
  }

  // Stop to play, and to generate.
  stop() {
    this.halt();
    this.position = 0;
    this.connection.send({ type: "stop" });
    this.dropStreams();
  }

  // Another stream takes the place of this one.
  yieldTo() {
    const { now } = this;
    this.halt();
    this.position = now;
    this.dropStreams();
  }

  dropStreams() {
    this.download = null;
    this.starting = null;
    for (const take of this.takes) if (take) take.stream = null;
    this.emit("change");
  }

  // Stop to play only.
  halt() {
    if (this.playing) this.player.begin(0, 1e9);
    this.playing = false;
    this.paused = false;
    this.emit("change");
  }

  generate(take, position) {
    for (const one of this.takes) if (one) one.stream = null;
    if (take !== this.download || position > 0) this.download = null; // It would never be complete.
    const { model, ...settings } = take.settings;
    const stream = this.connection.begin({ type: "play", model, settings, from_sample: position });
    this.starting = { take, stream };
  }

  afterStart({ stream, kind, n_samples, first }) {
    if (kind !== "play" || this.starting?.stream !== stream) return;
    this.starting.take.start({ n_samples, first }, stream);
    this.starting = null;
    this.sendCredit(true);
  }

  afterBlock(block) {
    for (const take of new Set(this.takes)) if (take?.add(block) && take === this.take && this.playing) this.feed();
    this.sendCredit();
  }

  afterEnd(stream) {
    for (const take of this.takes) if (take?.stream?.number === stream) take.stream = null;
    if (this.playing) this.feed();
    if (this.download?.isComplete) this.save();
  }

  feed() {
    const { take, player } = this;
    const limit = player.state.position + (this.starving ? SLOW_FEED_SECONDS : FEED_SECONDS) * take.rate;
    while (this.fedTo < limit && take.available(this.fedTo) > this.fedTo) {
      const samples = take.slice(this.fedTo, take.rate);
      player.push(samples);
      this.fedTo += samples.length;
    }
    if (take.length && this.fedTo >= take.length) player.end();
    else if (take.length && !take.stream && !this.starting && take.available(this.fedTo) <= this.fedTo) {
      this.generate(take, this.fedTo);
    }
  }

  afterReport() {
    this.feed();
    this.sendCredit();
    const { ended, buffered } = this.player.state;
    if (ended && buffered <= 0 && this.fedTo >= this.take.length) {
      this.halt();
      this.position = 0;
      this.emit("change");
    }
  }

  // The model is slower than real time: few long pauses are better than many short ones.
  afterDropout() {
    this.starving = true;
    this.player.setPrebuffer(SLOW_PREBUFFER_SECONDS);
  }

  sendCredit(now = false) {
    const stream = this.take?.stream ?? this.download?.stream;
    if (!stream || (!now && performance.now() - this.lastCredit < CREDIT_INTERVAL_MS)) return;
    this.lastCredit = performance.now();
    const length = this.take.length || this.download?.length || 0;
    const until = this.download ? length : Math.min(length, Math.round(this.now + AHEAD_SECONDS * this.rate));
    this.connection.send({ type: "credit", stream: stream.number, until });
  }

  // Save the whole piece as inference.py makes it; what is missing is generated first.
  requestDownload() {
    const { take } = this;
    this.download = take;
    if (take.isComplete) this.save();
    else if (!take.stream?.linear) this.generate(take, 0);
    else this.sendCredit(true);
    this.emit("change");
  }

  save() {
    const { download: take } = this;
    this.download = null;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(wavFile(take.samples, take.rate));
    link.download = `${this.name.replace(/\.\w+$/, "")}.wav`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.emit("change");
  }

  emit(type) {
    this.dispatchEvent(new Event(type));
  }
}
