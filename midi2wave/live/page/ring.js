// The samples between the network and the loudspeaker: a ring buffer that plays, waits and counts drop-outs.
// It runs in the audio worklet, and on the main thread where a browser has no worklet (see audio.js).

const CAPACITY_SECONDS = 8;
// After a drop-out the last value is faded out, since a jump would be a click.
const FADE = 0.97;

export class Ring {
  constructor(modelRate, contextRate) {
    this.ratio = modelRate / contextRate;
    this.samples = new Float32Array(Math.ceil(CAPACITY_SECONDS * modelRate));
    this.dropouts = 0;
    this.round = 0; // how often it began
    this.begin(0, Infinity);
  }

  // Forget what is buffered; the next sample that is pushed is that of `position`, and so many must be there to play.
  begin(position, prebuffer) {
    this.position = position; // of the next sample to be played
    this.written = position; // of the next sample to be pushed
    this.fraction = 0;
    this.prebuffer = prebuffer;
    this.waiting = true;
    this.ended = false;
    this.paused = false;
    this.value = 0;
  }

  get buffered() {
    return this.written - this.position;
  }

  push(values) {
    for (const value of values.subarray(0, this.samples.length - this.buffered)) {
      this.samples[this.written % this.samples.length] = value;
      this.written += 1;
    }
  }

  // Fill an output of the audio context.
  read(output) {
    if (this.waiting && (this.ended || this.buffered >= this.prebuffer)) this.waiting = false;
    for (let i = 0; i < output.length; i += 1) {
      if (this.waiting || this.paused || this.buffered <= 0) {
        if (!this.waiting && !this.paused && !this.ended) {
          this.dropouts += 1;
          this.waiting = true;
        }
        this.value *= FADE;
        output[i] = this.value;
        continue;
      }
      const size = this.samples.length;
      const here = this.samples[this.position % size];
      const next = this.buffered > 1 ? this.samples[(this.position + 1) % size] : here;
      this.value = here + this.fraction * (next - here);
      output[i] = this.value;
      this.fraction += this.ratio;
      const whole = Math.floor(this.fraction);
      this.fraction -= whole;
      this.position += Math.min(whole, this.buffered);
    }
  }

  get state() {
    const { round, position, buffered, dropouts, waiting, ended } = this;
    return { round, position, buffered, dropouts, waiting, ended };
  }

  // What the main thread asks for, as a message.
  obey(message) {
    if (message.type === "begin") {
      this.begin(message.position, message.prebuffer);
      this.round = message.round;
    } else if (message.type === "push") this.push(message.values);
    else if (message.type === "end") this.ended = true;
    else if (message.type === "pause") this.paused = message.paused;
    else if (message.type === "prebuffer") this.prebuffer = message.prebuffer;
  }
}
