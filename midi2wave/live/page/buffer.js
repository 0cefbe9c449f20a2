// How much sound waits in this page during live playing: as little as the machine allows, since it is latency.
//
// A block that comes late lowers the level of the buffer. Where it nearly empties it, more is buffered from then on, before
// there is a drop-out; where it never does, slowly less. More means that the server generates further ahead, less that it
// waits: no sample is left out or played twice.

const FIRST_SECONDS = 0.08;
const MIN_SECONDS = 0.06;
const MAX_SECONDS = 0.4;
// A level below this one is too near to a drop-out: a block of samples and one of the audio output.
const LOW_SECONDS = 0.024;
const MORE_SECONDS = 0.01;
const MORE_AFTER_DROPOUT_SECONDS = 0.02;
// More needs some blocks to come; levels until then say nothing of it.
const PAUSE_SECONDS = 0.1;
// Of the lowest level of so many seconds, as far as it is above the low one, this portion is given up.
const WINDOW_SECONDS = 20;
const LESS_PORTION = 0.25;

export class BufferTarget {
  constructor() {
    this.seconds = FIRST_SECONDS;
    this.begin(-Infinity);
  }

  // Note the level of the buffer at a time, both in seconds; returns whether the target is another one now.
  note(level, time) {
    if (time < this.pausedUntil) return false;
    if (level < LOW_SECONDS) return this.raise(MORE_SECONDS, time);
    if (this.windowStart === -Infinity) this.windowStart = time;
    this.lowest = Math.min(this.lowest, level);
    if (time - this.windowStart < WINDOW_SECONDS) return false;
    const { lowest, seconds } = this;
    this.begin(time);
    this.seconds = Math.max(MIN_SECONDS, seconds - LESS_PORTION * (lowest - LOW_SECONDS));
    return this.seconds < seconds;
  }

  noteDropout(time) {
    this.raise(MORE_AFTER_DROPOUT_SECONDS, time);
  }

  raise(seconds, time) {
    const before = this.seconds;
    this.seconds = Math.min(MAX_SECONDS, before + seconds);
    this.begin(time + PAUSE_SECONDS);
    return this.seconds > before;
  }

  // Begin a window of observed levels at a time.
  begin(time) {
    this.windowStart = this.pausedUntil = time;
    this.lowest = Infinity;
  }
}
