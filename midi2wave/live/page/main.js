// The page of play.py: puts keys, files, sound and pictures together.

import { Player } from "./audio.js";
import { Connection } from "./connection.js";
import { Files } from "./files.js";
import { connectMidi, Keys } from "./keys.js";
import { Live } from "./live.js";
import { clock } from "./takes.js";
import { drawRoll, liveWindow, Spectrogram } from "./views.js";

const $ = (id) => document.getElementById(id);
const MIN_SPEED = 1.05;
const ROLL_SECONDS = 60;
const DROPOUT_WARNING_MS = 6000;
// Pictures and numbers change so often at most: the sound needs the same thread, and often the same cores.
const PICTURE_MS = 30;
const NUMBERS_MS = 150;

const connection = new Connection();
const player = new Player();
const keys = new Keys($("piano"));
const live = new Live(connection, player);
const files = new Files(connection, player);
const spectrogram = new Spectrogram($("spectrogram"));
let models = [];
let limits = {};
let speed = null;
let dropoutTimes = [];

// For tests, and for the curious.
window.midi2wave = { connection, player, keys, live, files };

function say(text, warning = false) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").classList.toggle("warning", warning);
}

const model = () => models[$("model").selectedIndex];

function settings() {
  const form = $("settings").elements;
  const labels = [...document.querySelectorAll("#labels select")].map((select) => select.value).filter(Boolean);
  return {
    model: $("model").selectedIndex,
    temperature: Number(form.temperature.value),
    sampling: form.sampling.value,
    guidance: Number(form.guidance.value),
    history_level: Number(form.history_level.value),
    seed: Number(form.seed.value),
    labels,
    tempo: Number(form.tempo.value) / 100,
    transposition: Number(form.transposition.value),
    velocity_scale: Number(form.velocity_scale.value) / 100,
  };
}

function showSettings(values) {
  const form = $("settings").elements;
  if ($("model").selectedIndex !== values.model) {
    $("model").selectedIndex = values.model;
    showModel();
  }
  for (const name of ["temperature", "sampling", "guidance", "history_level", "seed", "transposition"]) form[name].value = values[name];
  form.tempo.value = Math.round(100 * values.tempo);
  form.velocity_scale.value = Math.round(100 * values.velocity_scale);
  for (const select of document.querySelectorAll("#labels select")) {
    select.value = values.labels.find((label) => label.startsWith(`${select.name}=`)) ?? "";
  }
  showCommand();
}

// The labels and defaults of the model that is chosen.
function showModel() {
  const { labels, defaults, lookahead_ms: lookahead, has_history_level: hasLevel } = model();
  $("labels").replaceChildren();
  for (const column of new Set(labels.map((label) => label.split("=")[0]))) {
    const select = document.createElement("select");
    select.name = column;
    select.add(new Option("none", ""));
    for (const label of labels.filter((one) => one.startsWith(`${column}=`))) {
      select.add(new Option(label.split("=")[1], label, false, defaults.labels.includes(label)));
    }
    const caption = document.createElement("label");
    caption.append(`${column[0].toUpperCase()}${column.slice(1)} `, select);
    $("labels").append(caption);
  }
  const form = $("settings").elements;
  form.temperature.value = defaults.temperature;
  form.sampling.value = defaults.sampling;
  form.guidance.value = defaults.guidance;
  form.history_level.value = defaults.history_level;
  $("history").hidden = !hasLevel;
  $("lookahead").textContent = `${Math.round(lookahead)} ms`;
  const [trained, ...faster] = $("lead").options;
  trained.textContent = `as trained (${Math.round(lookahead)} ms ahead)`;
  // Less than the model has is a choice, more is none.
  for (const option of faster) option.disabled = option.hidden = Number(option.value) >= lookahead;
  if ($("lead").selectedOptions[0].disabled) $("lead").value = trained.value;
}

function changed() {
  if (!$("settings").reportValidity()) return;
  if (live.active) {
    live.stop();
    startLive();
  }
  files.change(settings(), model().audio_hz);
  showCommand();
}

function startLive() {
  files.yieldTo();
  speed = null;
  const { temperature, sampling, guidance, history_level, seed, labels } = settings();
  const chosen = { temperature, sampling, guidance, history_level, seed, labels };
  const request = { model: $("model").selectedIndex, settings: chosen };
  if ($("lead").value !== "full") request.lead_ms = Number($("lead").value);
  live.start(request, model().audio_hz).catch((error) => say(`No sound: ${error.message}`, true));
  for (const [pedal, value] of keys.pedals) live.pedal({ pedal, value });
}

keys.addEventListener("key", ({ detail }) => {
  if (!connection.isOpen || !models.length) return;
  if (detail.velocity && !live.active) startLive();
  if (live.active) live.key(detail);
});
keys.addEventListener("pedal", ({ detail }) => {
  $("pedal").setAttribute("aria-pressed", String(detail.value >= 64));
  if (live.active) live.pedal(detail);
});
keys.addEventListener("octave", ({ detail }) => ($("octave").value = `C${detail.octave}`));

connection.on("hello", (message) => {
  models = message.models;
  limits = message;
  for (const { name, path } of models) $("model").add(new Option(name.replaceAll("_", " "), path));
  showModel();
  say("Play a key, or drop a MIDI file.");
  document.body.dataset.ready = "true";
});
connection.on("lost", ({ reason }) => {
  say(reason, true);
  live.active = false;
  files.playing = false;
  delete document.body.dataset.ready;
});
connection.on("ended", ({ stream }) => {
  if (stream === live.stream) say("The longest time of a stream is over. The next key begins another one.");
});
connection.on("refused", ({ stream, reason }) => {
  if (stream === live.stream) live.stop();
  say(reason, true);
});
connection.on("not_opened", ({ reason }) => {
  say(`This file cannot be played: ${reason}`, true);
  $("file-name").textContent = "Drop a MIDI file here, or choose one";
});
connection.on("opened", ({ notes, remarks }) => {
  live.stop();
  files.open($("file-name").textContent, notes, settings(), model().audio_hz);
  document.querySelector("[name=version]").checked = true;
  files.current = 0;
  for (const id of ["play", "stop", "seek", "download"]) $(id).disabled = false;
  $("roll").setAttribute("aria-label", `Piano roll of ${files.name}: ${notes.length} notes`);
  say(remarks.length ? `Opened. Left out or repaired: ${remarks.join("; ")}` : "Opened.");
  showCommand();
  startFile();
});
connection.on("speed", (message) => {
  speed = message.speed;
  files.speed = speed;
});
player.addEventListener("dropout", () => dropoutTimes.push(performance.now()));

function startFile() {
  live.stop();
  speed = null;
  files.play().catch((error) => say(`No sound: ${error.message}`, true));
}

async function sendFile(file) {
  if (!file) return;
  if (file.size > limits.max_file_bytes) {
    say(`${file.name} has ${file.size} bytes, expected at most ${limits.max_file_bytes}`, true);
    return;
  }
  // Now, while the browser knows that the user has asked for something: later it may forbid sound.
  player.open(model().audio_hz).catch(() => {});
  $("file-name").textContent = file.name;
  connection.sendFile(await file.arrayBuffer());
}

$("file").addEventListener("change", (event) => sendFile(event.target.files[0]));
for (const type of ["dragover", "drop"]) {
  window.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") sendFile(event.dataTransfer.files[0]);
  });
}
window.addEventListener("dragleave", () => $("drop").classList.remove("over"));

$("play").addEventListener("click", () => (files.playing ? files.pause() : startFile()));
$("stop").addEventListener("click", () => files.stop());
$("download").addEventListener("click", () => {
  live.stop();
  files.requestDownload();
});
$("seek").addEventListener("change", () => files.seek(Math.round(($("seek").value / 1000) * length())));
$("roll").addEventListener("click", ({ offsetX }) => {
  if (live.active || !files.notes.length) return;
  const { from, to } = fileWindow();
  const seconds = from + (offsetX / $("roll").clientWidth) * (to - from);
  files.seek(Math.round(seconds * files.rate));
});
for (const radio of document.querySelectorAll("[name=version]")) {
  radio.addEventListener("change", () => {
    if (!files.take) return;
    files.choose(Number(radio.value));
    showSettings(files.take.settings);
  });
}
files.addEventListener("change", () => {
  $("play").textContent = files.playing && !files.paused ? "Pause" : "Play";
  $("download").textContent = files.download ? "Generating …" : "Download WAV";
});

$("settings").addEventListener("change", changed);
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("labels").addEventListener("change", changed);
$("lead").addEventListener("change", changed);
$("model").addEventListener("change", () => {
  showModel();
  changed();
});
$("touch").addEventListener("input", () => (keys.touch = Number($("touch").value)));
$("octave-down").addEventListener("click", () => keys.shiftOctave(-1));
$("octave-up").addEventListener("click", () => keys.shiftOctave(1));
$("pedal").addEventListener("click", () => {
  keys.movePedal(64, $("pedal").getAttribute("aria-pressed") === "true" ? 0 : 127);
});
// A button that was clicked must not take the space bar, which is the pedal.
document.addEventListener("click", ({ target, detail }) => detail && target.closest("button, label")?.blur());
$("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
});

async function startMidi() {
  if (!navigator.requestMIDIAccess) {
    say("This browser has no Web MIDI on this page: it needs Chrome, Edge or Firefox, and this machine or https.", true);
    return;
  }
  try {
    await connectMidi(keys, (names) => {
      $("midi").textContent = names.length ? names.join(", ") : "No MIDI keyboard";
      $("midi").setAttribute("aria-pressed", String(names.length > 0));
    });
  } catch (error) {
    say(`No MIDI keyboard: ${error.message}`, true);
  }
}
$("midi").addEventListener("click", startMidi);
navigator.permissions
  ?.query({ name: "midi" })
  .then(({ state }) => state === "granted" && startMidi())
  .catch(() => {});

// A word of a command, safe to paste into a shell whatever the name of a file is.
const word = (text) => (/^[\w./=:,+@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// The command that makes the same samples.
function showCommand() {
  const values = settings();
  const isAsInFile = values.tempo === 1 && values.transposition === 0 && values.velocity_scale === 1;
  if (!files.name || !isAsInFile) {
    $("command").textContent = "";
    return;
  }
  const { path, config, has_history_level: hasLevel } = model();
  const { temperature, sampling, guidance, seed } = values;
  const options = { model_filename: path, temperature, sampling, guidance, seed };
  if (hasLevel) options.history_level = values.history_level;
  const set = Object.entries(options).map(([name, value]) => `--set ${word(`inference_config.${name}=${value}`)}`);
  const labels = values.labels.length ? ` --global ${values.labels.map(word).join(" ")}` : "";
  $("command").textContent = `The same WAV: python inference.py -c ${config} ${set.join(" ")}${labels} --midi ${word(files.name)} --out played`;
}

function length() {
  if (files.take?.length) return files.take.length;
  const tempo = files.take?.settings.tempo ?? 1;
  return (files.rate * (Math.max(0, ...files.notes.map((note) => note[1])) + 2)) / tempo;
}

function fileWindow() {
  const seconds = length() / files.rate;
  const now = files.now / files.rate;
  const from = Math.min(Math.max(0, now - ROLL_SECONDS / 4), Math.max(0, seconds - ROLL_SECONDS));
  return { from, to: Math.min(seconds, from + ROLL_SECONDS), now };
}

function showFile() {
  const { tempo, transposition } = files.take.settings;
  const notes = files.notes.map(([on, off, pitch, velocity]) => [on / tempo, off / tempo, pitch + transposition, velocity]);
  const ready = files.take.available(files.now) / files.rate;
  drawRoll($("roll"), { notes, ...fileWindow(), ready });
  const total = length();
  if (document.activeElement !== $("seek") || files.playing) $("seek").value = (1000 * files.now) / total;
  $("seek").setAttribute("aria-valuetext", clock(files.now / files.rate));
  $("time").value = `${clock(files.now / files.rate)} / ${clock(total / files.rate)}`;
}

// What live playing does where the machine does not keep up.
function interruptions() {
  return `Drop-outs so far: ${player.state.dropouts}; ${Math.round(1000 * live.bufferSeconds)} ms of sound are buffered against them.`;
}

function showState() {
  dropoutTimes = dropoutTimes.filter((time) => performance.now() - time < DROPOUT_WARNING_MS);
  const factor = speed === null ? null : `${speed.toFixed(1)} × real time`;
  if (live.active && live.asleep) say("Asleep. A key wakes the model.");
  else if (live.active && speed !== null && speed < MIN_SPEED) say(`This machine is too slow for this model: ${factor}. ${interruptions()} A smaller instrument or guidance 1 helps.`, true);
  else if (live.active && dropoutTimes.length > 1) {
    say(`Other programs take this machine's time: the model alone is fast enough (${factor ?? "?"}). ${interruptions()} Closing them helps.`, true);
  } else if (files.playing && files.starving && player.state.waiting) {
    say(`Slower than real time (${factor ?? "?"}): playing waits for the model.`, true);
  } else if (live.active) say("Playing live.");
  else if (files.playing) say(files.paused ? "Paused." : player.state.waiting ? "Generating …" : `Playing ${files.name}.`);
  $("speed").textContent = factor ?? "–";
  $("dropouts").textContent = player.state.dropouts;
  const latency = live.latencyMs;
  $("latency").textContent = latency === null ? "–" : `${Math.round(latency)} ms`;
  $("buffer").textContent = live.active ? `${Math.round(1000 * live.bufferSeconds)} ms` : "–";
  if (live.active && live.leadMs !== undefined) $("lookahead").textContent = `${Math.round(live.leadMs)} ms`;
}

let lastPicture = 0;
let lastNumbers = 0;

function draw(time) {
  requestAnimationFrame(draw);
  if (time - lastPicture < PICTURE_MS) return;
  lastPicture = time;
  if (live.active) drawRoll($("roll"), { notes: live.notes, ...liveWindow(live.now), now: live.now });
  else if (files.take) showFile();
  if (player.context?.state === "running" && (live.active || files.playing)) {
    spectrogram.draw(player.analyser, player.context.currentTime);
  }
  if (time - lastNumbers < NUMBERS_MS) return;
  lastNumbers = time;
  showState();
}

keys.showOctave();
window.addEventListener("resize", () => keys.showOctave());
requestAnimationFrame(draw);
