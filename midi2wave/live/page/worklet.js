// The audio worklet: plays a ring buffer, and reports where it is.

import { Ring } from "./ring.js";

const REPORT_SECONDS = 0.008;

class RingPlayer extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.ring = new Ring(options.processorOptions.modelRate, sampleRate);
    this.lastReport = 0;
    this.captured = null; // what was played, for tests
    this.port.onmessage = ({ data }) => {
      if (data.type === "capture") {
        this.port.postMessage({ type: "captured", values: Float32Array.from(this.captured ?? []) });
        this.captured = [];
      } else this.ring.obey(data);
    };
  }

  process(inputs, outputs) {
    const output = outputs[0][0];
    const state = this.ring.state;
    this.ring.read(output);
    if (this.captured) for (const value of output) this.captured.push(value);
    if (currentTime - this.lastReport >= REPORT_SECONDS) {
      this.lastReport = currentTime;
      this.port.postMessage({ type: "report", time: currentTime, at: state.position, ...this.ring.state });
    }
    return true;
  }
}

registerProcessor("ring-player", RingPlayer);
