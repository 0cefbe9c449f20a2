// What was generated of a MIDI file: two takes, A and B, each with its settings and its samples.

const CHUNK_SECONDS = 0.5;

// Samples of one piece with one set of settings. The linear ones begin at 0 and are those of inference.py; after a jump
// beyond them there is a second stretch, which began from silence.
export class Take {
  constructor(settings) {
    this.settings = settings;
    this.key = JSON.stringify(settings);
    this.clear();
  }

  clear() {
    this.samples = null; // Int16Array of the whole piece
    this.end = 0; // of the linear stretch
    this.jump = null; // {first, end, samples}
    this.stream = null; // what is being generated: {number, linear}
  }

  start(message, number) {
    const { n_samples: n, first } = message;
    if (!this.samples || this.samples.length !== n) this.samples = new Int16Array(n);
    this.stream = { number, linear: first === 0 };
    if (first === 0) this.end = 0;
    else this.jump = { first, end: first, samples: new Int16Array(n - first) };
  }

  add({ stream, first, samples }) {
    if (this.stream?.number !== stream) return false;
    if (this.stream.linear) {
      this.samples.set(samples, first);
      this.end = first + samples.length;
    } else {
      this.jump.samples.set(samples, first - this.jump.first);
      this.jump.end = first + samples.length;
    }
    return true;
  }

  get length() {
    return this.samples?.length ?? 0;
  }

  get isComplete() {
    return this.samples !== null && this.end === this.length;
  }

  // The last sample that can be played from a position on.
  available(position) {
    if (this.samples && position < this.end) return this.end;
    if (this.jump && position >= this.jump.first && position < this.jump.end) return this.jump.end;
    return position;
  }

  // Whether what is being generated will come to a position.
  reaches(position) {
    if (!this.stream) return false;
    return this.stream.linear ? position <= this.end : position >= this.jump.first && position <= this.jump.end;
  }

  slice(position, rate) {
    const end = Math.min(this.available(position), position + CHUNK_SECONDS * rate);
    if (this.samples && position < this.end) return this.samples.subarray(position, end);
    return this.jump.samples.subarray(position - this.jump.first, end - this.jump.first);
  }
}

// A 16-bit mono WAV file.
export function wavFile(samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, 2 * samples.length, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
