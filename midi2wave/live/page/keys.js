// The keys: a piano on the screen, the computer's keyboard, and MIDI keyboards.

export const MIN_PITCH = 21;
export const MAX_PITCH = 108;
const NAMES = ["C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B"];
const IS_BLACK = [0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0].map(Boolean);
const N_WHITE = 52;
// Two octaves by the places of the keys, whatever letters are on them.
const LOWER = "KeyZ KeyS KeyX KeyD KeyC KeyV KeyG KeyB KeyH KeyN KeyJ KeyM Comma KeyL Period Semicolon Slash".split(" ");
const UPPER = "KeyQ Digit2 KeyW Digit3 KeyE KeyR Digit5 KeyT Digit6 KeyY Digit7 KeyU KeyI Digit9 KeyO Digit0 KeyP".split(" ");
const SUSTAIN = 64;
const PEDALS = [64, 66, 67];
const TYPED = "input:not([type=range]):not([type=radio]):not([type=checkbox]), select, textarea";

export function pitchName(pitch) {
  return `${NAMES[pitch % 12]} ${Math.floor(pitch / 12) - 1}`;
}

export function isBlack(pitch) {
  return IS_BLACK[pitch % 12];
}

// Which keys are down, by whom. Emits "key" {pitch, velocity, time} (velocity 0: up) and "pedal" {pedal, value}.
export class Keys extends EventTarget {
  constructor(piano) {
    super();
    this.holders = new Map(); // pitch -> who holds it
    this.pedals = new Map(); // pedal -> where it is
    this.buttons = new Map();
    this.octave = 4; // of the lower row
    this.touch = 80; // velocity of the computer's keys
    this.piano = piano;
    this.build();
    this.listenToPointers();
    this.listenToTyping();
  }

  press(pitch, velocity, holder, time) {
    if (pitch < MIN_PITCH || pitch > MAX_PITCH) return;
    if (!this.holders.has(pitch)) this.holders.set(pitch, new Set());
    this.holders.get(pitch).add(holder);
    this.buttons.get(pitch).classList.add("down");
    this.emit("key", { pitch, velocity, time });
  }

  release(pitch, holder, time) {
    const holders = this.holders.get(pitch);
    if (!holders?.delete(holder) || holders.size) return;
    this.buttons.get(pitch).classList.remove("down");
    this.emit("key", { pitch, velocity: 0, time });
  }

  releaseAll() {
    for (const [pitch, holders] of this.holders) {
      for (const holder of [...holders]) this.release(pitch, holder, performance.now());
    }
  }

  movePedal(pedal, value) {
    this.pedals.set(pedal, value);
    this.emit("pedal", { pedal, value });
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  shiftOctave(by) {
    this.octave = Math.min(6, Math.max(1, this.octave + by));
    this.labelKeys();
    this.showOctave();
    this.emit("octave", { octave: this.octave });
  }

  build() {
    let white = 0;
    for (let pitch = MIN_PITCH; pitch <= MAX_PITCH; pitch += 1) {
      const button = document.createElement("button");
      const black = isBlack(pitch);
      button.type = "button";
      button.className = black ? "black" : "white";
      button.style.setProperty("--at", white / N_WHITE);
      button.tabIndex = pitch === 60 ? 0 : -1;
      button.dataset.pitch = pitch;
      button.setAttribute("aria-label", pitchName(pitch));
      button.append(document.createElement("span"));
      this.buttons.set(pitch, button);
      this.piano.append(button);
      if (!black) white += 1;
    }
    this.labelKeys();
  }

  labelKeys() {
    for (const [pitch, button] of this.buttons) {
      const code = this.codeOf(pitch);
      const letter = code?.replace(/^(Key|Digit)/, "").replace("Comma", ",").replace("Period", ".");
      const mark = pitch % 12 === 0 ? `C${pitch / 12 - 1}` : "";
      button.firstChild.textContent = letter?.length === 1 ? letter.toLowerCase() : mark;
    }
  }

  showOctave() {
    const first = this.buttons.get(Math.min(MAX_PITCH, 12 * (this.octave + 1)));
    this.piano.parentElement.scrollTo({ left: first.offsetLeft - 8, behavior: "instant" });
  }

  codeOf(pitch) {
    const semitones = pitch - 12 * (this.octave + 1);
    return semitones >= 12 ? UPPER[semitones - 12] : LOWER[semitones];
  }

  pitchOf(code) {
    const [lower, upper] = [LOWER.indexOf(code), UPPER.indexOf(code)];
    if (lower < 0 && upper < 0) return null;
    return 12 * (this.octave + 1) + (upper >= 0 ? upper + 12 : lower);
  }

  listenToPointers() {
    const pitches = new Map(); // pointer -> the key that it holds
    const move = (event) => {
      const key = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-pitch]");
      const pitch = key ? Number(key.dataset.pitch) : null;
      const before = pitches.get(event.pointerId);
      if (pitch === before) return;
      if (before != null) this.release(before, event.pointerId, event.timeStamp);
      pitches.set(event.pointerId, pitch);
      if (pitch === null) return;
      const { top, height } = key.getBoundingClientRect();
      const depth = Math.min(1, Math.max(0, (event.clientY - top) / height));
      this.press(pitch, Math.round(35 + 85 * depth), event.pointerId, event.timeStamp);
    };
    const up = (event) => {
      const pitch = pitches.get(event.pointerId);
      pitches.delete(event.pointerId);
      if (pitch != null) this.release(pitch, event.pointerId, event.timeStamp);
    };
    this.piano.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.target.releasePointerCapture?.(event.pointerId);
      pitches.set(event.pointerId, null);
      move(event);
    });
    window.addEventListener("pointermove", (event) => pitches.has(event.pointerId) && move(event));
    for (const type of ["pointerup", "pointercancel"]) window.addEventListener(type, up);
  }

  listenToTyping() {
    const pitches = new Map(); // code -> pitch: the octave may change meanwhile
    window.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPED)) return;
      const key = event.target.closest?.("[data-pitch]");
      const isControl = event.target.closest?.("button, input, a, summary") && !key;
      if (event.code === "Space" && !isControl) {
        event.preventDefault();
        if (!event.repeat) this.movePedal(SUSTAIN, 127);
      } else if (key && ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.code)) {
        event.preventDefault();
        this.moveFocus(key, { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 12, ArrowDown: -12 }[event.code]);
      } else if (!event.repeat && event.code === "PageUp") this.shiftOctave(1);
      else if (!event.repeat && event.code === "PageDown") this.shiftOctave(-1);
      else {
        const pitch = key && event.code === "Enter" ? Number(key.dataset.pitch) : this.pitchOf(event.code);
        if (pitch === null) return;
        event.preventDefault();
        if (event.repeat || pitches.has(event.code)) return;
        pitches.set(event.code, pitch);
        this.press(pitch, this.touch, event.code, event.timeStamp);
      }
    });
    window.addEventListener("keyup", (event) => {
      if (event.code === "Space") this.movePedal(SUSTAIN, 0);
      if (!pitches.has(event.code)) return;
      this.release(pitches.get(event.code), event.code, event.timeStamp);
      pitches.delete(event.code);
    });
    window.addEventListener("blur", () => {
      pitches.clear();
      this.releaseAll();
      this.movePedal(SUSTAIN, 0);
    });
  }

  moveFocus(key, semitones) {
    const next = this.buttons.get(Number(key.dataset.pitch) + semitones);
    if (!next) return;
    key.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

// Listen to all MIDI keyboards, also those that are plugged in later; returns their names.
export async function connectMidi(keys, onDevices) {
  const access = await navigator.requestMIDIAccess({ sysex: false });
  const update = () => {
    for (const input of access.inputs.values()) input.onmidimessage = (event) => playMidi(keys, input.id, event);
    onDevices([...access.inputs.values()].map((input) => input.name ?? "a MIDI keyboard"));
  };
  access.onstatechange = update;
  update();
}

function playMidi(keys, holder, { data, timeStamp }) {
  const [status, number, value] = data;
  const kind = status & 0xf0;
  if (kind === 0x90 && value > 0) keys.press(number, value, holder, timeStamp);
  else if (kind === 0x80 || kind === 0x90) keys.release(number, holder, timeStamp);
  else if (kind === 0xb0 && PEDALS.includes(number)) keys.movePedal(number, value);
  else if (kind === 0xb0 && (number === 120 || number === 123)) keys.releaseAll();
}
