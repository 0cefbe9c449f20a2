// The audio output: a context at the model's sample rate and a ring buffer in its audio thread.

import { Ring } from "./ring.js";

const SCRIPT_BLOCK = 512;

export class Player extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.round = 0;
    this.state = { position: 0, buffered: 0, dropouts: 0, waiting: true, ended: false };
  }

  get rate() {
    return this.modelRate;
  }

  // Open the output; a browser allows it after a key, a click or a touch only.
  async open(modelRate) {
    if (this.modelRate !== modelRate) this.opening = this.openNew(modelRate);
    await this.opening;
    if (this.context.state !== "running") await this.context.resume();
  }

  async openNew(modelRate) {
    const before = this.context;
    this.modelRate = modelRate;
    this.context = makeContext(modelRate);
    await before?.close();
    this.analyser = new AnalyserNode(this.context, { fftSize: 2048, smoothingTimeConstant: 0 });
    this.analyser.connect(this.context.destination);
    if (this.context.audioWorklet) await this.openWorklet();
    else this.openScript();
  }

  async openWorklet() {
    await this.context.audioWorklet.addModule("worklet.js");
    const node = new AudioWorkletNode(this.context, "ring-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { modelRate: this.modelRate },
    });
    node.port.onmessage = ({ data }) => {
      if (data.type === "report") this.report(data);
      else this.dispatchEvent(new CustomEvent(data.type, { detail: data }));
    };
    node.connect(this.analyser);
    this.node = node;
    this.post = (message, transfer = []) => node.port.postMessage(message, transfer);
  }

  // Browsers have no worklets on pages from other machines without https.
  openScript() {
    const ring = new Ring(this.modelRate, this.context.sampleRate);
    const node = this.context.createScriptProcessor(SCRIPT_BLOCK, 0, 1);
    node.onaudioprocess = (event) => {
      const at = ring.position;
      ring.read(event.outputBuffer.getChannelData(0));
      this.report({ time: event.playbackTime, at, ...ring.state });
    };
    node.connect(this.analyser);
    this.node = node;
    this.post = (message) => ring.obey(message);
  }

  report(state) {
    // Reports of what was played before the last `begin` say nothing of what is played now.
    if (state.round !== this.round) return;
    const before = this.state.dropouts;
    this.state = state;
    this.dispatchEvent(new Event("report"));
    if (state.dropouts > before) this.dispatchEvent(new Event("dropout"));
  }

  begin(position, prebufferSeconds) {
    this.state = { ...this.state, position, at: position, buffered: 0, waiting: true, ended: false };
    this.round += 1;
    this.post({ type: "begin", round: this.round, position, prebuffer: Math.round(prebufferSeconds * this.modelRate) });
  }

  push(int16) {
    const values = Float32Array.from(int16, (value) => value / 32768);
    this.post({ type: "push", values }, [values.buffer]);
  }

  end() {
    this.post({ type: "end" });
  }

  pause(paused) {
    this.post({ type: "pause", paused });
  }

  setPrebuffer(seconds) {
    this.post({ type: "prebuffer", prebuffer: Math.round(seconds * this.modelRate) });
  }

  // When a sample leaves the loudspeaker, in milliseconds of performance.now(), as the browser estimates it.
  timeOf(sample) {
    const contextTime = this.state.time + (sample - this.state.at) / this.modelRate;
    const stamp = this.context.getOutputTimestamp?.();
    if (stamp?.performanceTime > 0) return stamp.performanceTime + 1000 * (contextTime - stamp.contextTime);
    const latency = this.context.outputLatency || this.context.baseLatency || 0;
    return performance.now() + 1000 * (contextTime - this.context.currentTime + latency);
  }
}

function makeContext(modelRate) {
  try {
    return new AudioContext({ sampleRate: modelRate, latencyHint: "interactive" });
  } catch {
    return new AudioContext({ latencyHint: "interactive" }); // The ring buffer interpolates.
  }
}
