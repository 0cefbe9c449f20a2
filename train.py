"""Step 3: a processed folder -> a run folder with checkpoints that generate.

    python train.py -c config_train.json
    tensorboard --logdir runs

The same command goes on from the newest checkpoint of the run folder; Ctrl-C saves one first. The loss is the negative
log-likelihood in nats per sample, with noise on the decoder's history; validation_nll is the one without noise, on
crops with a whole receptive field before them. Beside it stands the one with another recording's MIDI: as long as the
two are equal, the decoder ignores the MIDI.
"""

import contextlib
import copy
import functools
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import checkpoint
from atomic import write_text
from audio import write_wav
from cli import choose_device, note, parser, reason, run
from config import Config, TrainConfig, load_config
from dataset import Crops, ProcessedFolder, batches
from errors import InputError
from midi import CLIP_MARGIN_SECONDS, clip
from report import clip_figure, curves_figure, save_figure
from synthesis import synthesize
from wavenet import WaveNet

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config")
CONFIG_NAME, METRICS_NAME, CURVES_NAME, SAMPLES_NAME = "config.json", "metrics.jsonl", "curves.png", "samples"
VALIDATION_SEED = 2**40  # no run's seed: the validation crops are the same in every run
SAMPLE_SECONDS, SAMPLE_PRIMED_SECONDS = 2.0, 1.0


@dataclass
class Run:
    """Everything that training changes, and where it goes."""

    config: Config
    folder: Path
    device: torch.device
    model: WaveNet
    average: WaveNet  # exponential moving average of the weights: validated, sampled from and shipped
    optimizer: torch.optim.Optimizer
    validation: "Validation | None" = None
    step: int = 0
    saved_step: int = -1
    last: dict[str, float] = field(default_factory=dict)  # newest value of every metric


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    args = parser(__doc__, config="config_train.json").parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    if not config.data_config.dataset_path:
        raise InputError(f"{args.config}: data_config.dataset_path is empty; make one with preprocess_maestro.py")
    started = time.monotonic()
    state = begin(config, force=args.force)
    with contextlib.closing(SummaryWriter(str(state.folder), purge_step=state.step)) as board, stop_signals() as stop:
        train(state, board, stop)
    result = {"run_folder": str(state.folder), "step": state.step, **state.last}
    result["elapsed_seconds"] = time.monotonic() - started
    words = [f"step {state.step}", *(f"{name} {value:.4g}" for name, value in state.last.items())]
    print(json.dumps(result) if args.as_json else f"{state.folder}: {', '.join(words)}")
    return 0


def begin(config: Config, *, force: bool) -> Run:
    """A new run, or an old one as its newest checkpoint left it. Raises InputError where the two do not fit."""
    settings, data = config.train_config, config.data_config
    folder, device = Path(settings.output_directory), choose_device(settings.device)
    torch.manual_seed(settings.seed)
    model = checkpoint.build_model(config).to(device)
    if settings.checkpoint_path and (force or not checkpoint.step_folders(folder)):
        weights, theirs, _ = checkpoint.load_weights(settings.checkpoint_path)
        if wrong := checkpoint.differences(config, theirs):
            raise InputError(f"{settings.checkpoint_path} holds another model: {'; '.join(wrong)}")
        checkpoint.fit_weights(model, weights, settings.checkpoint_path)
    _crops(config, model, data.dataset_path, settings.seed, range(0))  # says what is wrong before anything is touched
    validation = load_validation(config, model) if data.validation_path else None
    _claim_run(folder, force=force)
    stored = checkpoint.load_training(folder)
    if stored and (wrong := checkpoint.differences(config, stored[1])):
        raise InputError(
            f"{folder} holds a run with another model: {'; '.join(wrong)}; choose another output_directory"
        )
    if stored:
        checkpoint.fit_weights(model, stored[0]["model"], folder)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))
    state = Run(config, folder, device, model, average, optimizer, validation)
    if stored:
        average.load_state_dict(stored[0]["average"])
        optimizer.load_state_dict(stored[0]["optimizer"])
        for group, decay in zip(optimizer.param_groups, (settings.weight_decay, 0.0), strict=True):
            group["weight_decay"] = decay  # the config's, not the stored one
        state.step = state.saved_step = stored[0]["step"]
        if state.step > settings.steps:
            raise InputError(f"{folder} is at step {state.step} already; raise train_config.steps = {settings.steps}")
        note(f"going on from step {state.step} of {folder}")
    state.last = _keep_metrics(folder / METRICS_NAME, state.step)
    write_text(folder / CONFIG_NAME, json.dumps(config.as_dict(), indent=2) + "\n")
    return state


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks between two steps; a second one acts at once."""
    received = []

    def receive(number: int, _frame: object) -> None:
        if received:
            signal.default_int_handler(number, None)
        received.append(number)

    old = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def train(state: Run, board: SummaryWriter, stop: Callable[[], bool] = lambda: False) -> None:
    """The loop: from the state's step to the last one, or until `stop()`; saves at the end."""
    settings = state.config.train_config
    note(_introduction(state))
    indices = range(state.step * settings.batch_size, settings.steps * settings.batch_size)
    noise = functools.partial(history_noise, settings)
    crops = _crops(
        state.config, state.model, state.config.data_config.dataset_path, settings.seed, indices, noise=noise
    )
    samples = settings.batch_size * crops.n_frames * crops.hop
    loader = batches(
        crops, settings.batch_size, state.config.data_config.n_workers, pin_memory=state.device.type == "cuda"
    )
    bar = tqdm(
        total=settings.steps, initial=state.step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
    )
    losses, skipped, seconds, logged, began = [], 0, 0.0, state.step, time.monotonic()
    for batch in loader:
        loss, norm = update(state, batch)
        if math.isfinite(loss + norm):
            losses.append(loss)
            skipped = 0
        else:
            skipped = _skip(state, skipped, crops)
        state.step += 1
        bar.update()
        seconds += time.monotonic() - began  # validation, samples and checkpoints are not training time
        if state.step % settings.iters_per_log == 0 and losses:
            metrics = {
                "loss": sum(losses) / len(losses),
                "gradient_norm": norm,
                "learning_rate": learning_rate(state.step - 1, settings),
                "samples_per_second": (state.step - logged) * samples / seconds,
            }
            log(state, board, **metrics)
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", samples_per_s=f"{metrics['samples_per_second']:.0f}")
            losses, seconds, logged = [], 0.0, state.step
        _now_and_then(state, board)
        if stop():
            note(f"stopped at step {state.step} of {settings.steps}; the same command goes on from there")
            break
        began = time.monotonic()
    bar.close()
    if state.saved_step != state.step and (problem := save(state)):
        raise InputError(f"step {state.step} is not saved: {problem}")
    write_curves(state)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from the peak down to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    span = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def history_noise(config: TrainConfig, index: int) -> float:
    """Largest level of the noise on the history of the crop of this index: a line from first to final."""
    done = index / (config.steps * config.batch_size)
    return config.history_noise + done * (config.final_history_noise - config.history_noise)


def update(state: Run, batch: dict[str, Tensor]) -> tuple[float, float]:
    """One optimiser step; returns loss and gradient norm. Without a finite loss and gradient it changes nothing."""
    settings = state.config.train_config
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings)
    loss = negative_log_likelihood(state.model, batch, state.device).mean()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.gradient_clip)
    if torch.isfinite(loss + norm):
        state.optimizer.step()
        # At the start the average follows quickly, lest it hold on to the random weights.
        decay = min(settings.ema_decay, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), 1 - decay)
    return loss.item(), norm.item()


def negative_log_likelihood(
    model: WaveNet, batch: dict[str, Tensor], device: torch.device, warmup_samples: int = 0
) -> Tensor:
    """Mean over each crop but its first `warmup_samples`, in nats per sample: [B]."""
    here = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    previous, history = here["history"].tensor_split([model.decoder.taps], dim=1)
    params = model(history, here["features"], here.get("excitation"), previous)
    return -model.log_likelihood(params, here["samples"])[:, warmup_samples:].mean(dim=1)


@dataclass(frozen=True)
class Validation:
    """The validation crops, always the same ones, each with a partner whose MIDI it is given for comparison."""

    crops: dict[str, Tensor]  # as a batch of all of them
    partner: Tensor  # [N], a crop of another recording where there are several
    warmup_samples: int


def load_validation(config: Config, model: WaveNet) -> Validation:
    """Read the validation crops. Raises InputError for what is wrong with their folder."""
    indices = range(config.train_config.validation_crops)
    warmup_frames = math.ceil(model.decoder.receptive_field / model.hop)
    crops = _crops(config, model, config.data_config.validation_path, VALIDATION_SEED, indices, warmup_frames)
    items = [crops[i] for i in indices]
    recording, partner = [crops.where(i)[0] for i in indices], []
    for i in indices:
        following = [(i + k) % len(indices) for k in indices[1:]]
        partner.append(next((k for k in following if recording[k] != recording[i]), following[0]))
    stacked = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    return Validation(stacked, torch.tensor(partner), warmup_frames * model.hop)


@torch.inference_mode()
def validate(state: Run) -> dict[str, float]:
    """Likelihood of the validation crops with their own MIDI and with their partner's, by the averaged weights."""
    validation, own, other = state.validation, [], []
    for chosen in torch.arange(len(validation.partner)).split(state.config.train_config.batch_size):
        batch = {name: value[chosen] for name, value in validation.crops.items()}
        swapped = {name: validation.crops[name][validation.partner[chosen]] for name in ("features", "excitation")
                   if name in batch}  # fmt: skip
        for results, given in ((own, batch), (other, batch | swapped)):
            results.append(negative_log_likelihood(state.average, given, state.device, validation.warmup_samples).cpu())
    own, gap = torch.cat(own), torch.cat(other) - torch.cat(own)
    return {
        "validation_nll": own.mean().item(),
        "validation_nll_shuffled": (own + gap).mean().item(),
        "validation_gap": gap.mean().item(),
        "validation_gap_error": gap.std().item() / math.sqrt(len(gap)),  # standard error, paired by crop
    }


def write_sample(state: Run, board: SummaryWriter) -> None:
    """Let the averaged model go on from a second of a validation recording: a wav and a picture to look at."""
    data = state.config.data_config
    folder = ProcessedFolder(data.validation_path or data.dataset_path)
    performance, pcm = folder.performance(0), folder.pcm(0)
    if len(pcm) < SAMPLE_SECONDS * data.audio_hz:
        return  # nothing that could be shown
    start = max(0.0, min(float(performance.onset[0]), len(pcm) / data.audio_hz - SAMPLE_SECONDS))
    n_frames, hop = round(SAMPLE_SECONDS * data.midi_hz), data.audio_hz // data.midi_hz
    truth = pcm[round(start * data.audio_hz) :][: n_frames * hop]
    prefix = truth[None, : round(SAMPLE_PRIMED_SECONDS * data.midi_hz) * hop]
    events = clip(performance, start, start + SAMPLE_SECONDS, CLIP_MARGIN_SECONDS)
    blocks = synthesize(state.average, [events], n_frames, data, streams=[0], seed=0, prefix=prefix)
    output = torch.cat([torch.from_numpy(block[0].copy()) for block in blocks])
    figure = clip_figure(events, SAMPLE_SECONDS, data.audio_hz, truth, output.numpy(), title=f"step {state.step}",
                         handover_seconds=SAMPLE_PRIMED_SECONDS)  # fmt: skip
    stem = state.folder / SAMPLES_NAME / f"step_{state.step:08d}"
    write_wav(stem.with_suffix(".wav"), output.numpy(), data.audio_hz)
    save_figure(stem.with_suffix(".png"), figure)
    board.add_audio("primed", output / 32768, state.step, data.audio_hz)
    board.add_figure("primed", figure, state.step)


def save(state: Run) -> str | None:
    """Save a checkpoint; if that is not possible (full disk), say and return why.

    Raises InputError if the weights are not finite any more.
    """
    if not all(torch.isfinite(p).all() for p in state.model.parameters()):
        raise InputError(
            f"the weights of step {state.step} are not finite: not saved; lower train_config.learning_rate"
        )
    training = {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    keep = state.config.train_config.keep_checkpoints
    try:
        checkpoint.save(state.folder, state.step, state.average.state_dict(), training, state.config, keep)
    except OSError as error:
        note(f"the checkpoint of step {state.step} could not be saved: {reason(error)}")
        return reason(error)
    state.saved_step = state.step
    return None


def write_curves(state: Run) -> None:
    """Draw metrics.jsonl; a picture that can't be written (full disk) is reported, and nothing more."""
    try:
        lines = (state.folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
        save_figure(state.folder / CURVES_NAME, curves_figure([json.loads(line) for line in lines]))
    except OSError as error:
        note(f"{CURVES_NAME} could not be written: {reason(error)}")


def _skip(state: Run, skipped: int, crops: Crops) -> int:
    """Say that a step changed nothing, and on which crops; after ten in a row there is no point in going on."""
    size, names = state.config.train_config.batch_size, []
    for index in range(state.step * size, (state.step + 1) * size):
        position, frame = crops.where(index)
        names.append(f"{crops.folder.rows[position].audio_filename} at {frame / crops.config.midi_hz:.2f} s")
    note(f"step {state.step} was skipped: its loss or gradient is not finite; its crops: {', '.join(names)}")
    if skipped == 9:
        raise InputError("ten steps in a row without a finite gradient; lower train_config.learning_rate")
    return skipped + 1


def log(state: Run, board: SummaryWriter, **metrics: float) -> None:
    """Write metrics to metrics.jsonl, to TensorBoard and, where there is no bar, to stderr."""
    state.last.update(metrics)
    with open(state.folder / METRICS_NAME, "a", encoding="utf-8") as handle:
        handle.write(json.dumps({"step": state.step, **metrics}) + "\n")
    for name, value in metrics.items():
        board.add_scalar(name, value, state.step)
    if not sys.stderr.isatty():
        note(f"step {state.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


def _now_and_then(state: Run, board: SummaryWriter) -> None:
    """What does not happen at every step: validation, samples, checkpoints."""
    settings = state.config.train_config
    if state.step % settings.iters_per_checkpoint == 0:
        save(state)  # before what takes long and may be interrupted
    last = state.step == settings.steps
    if state.validation and (state.step % settings.iters_per_validation == 0 or last):
        log(state, board, **validate(state))
        write_curves(state)
    if settings.iters_per_sample and state.step % settings.iters_per_sample == 0:
        write_sample(state, board)


def _crops(
    config: Config, model: WaveNet, path: str, seed: int, indices: range, warmup_frames: int = 0, noise=None
) -> Crops:
    return Crops(
        ProcessedFolder(path),
        config.data_config,
        margins=model.margins,
        n_previous=model.decoder.taps,
        codes=not model.decoder.mixture,
        seed=seed,
        indices=indices,
        warmup_frames=warmup_frames,
        history_noise=noise,
    )


def _claim_run(folder: Path, *, force: bool) -> None:
    """Make sure that the folder is new or a run's; `force` removes that run's checkpoints and metrics."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"train_config.output_directory: {folder} is a file, expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_NAME).is_file():
        raise InputError(f"{folder} is not empty and not the folder of a run; choose another output_directory")
    if force:
        for old in checkpoint.step_folders(folder):
            shutil.rmtree(old)
        (folder / METRICS_NAME).unlink(missing_ok=True)


def _keep_metrics(path: Path, step: int) -> dict[str, float]:
    """Drop the lines that a killed run wrote after its last checkpoint (these steps come again); the newest values."""
    kept, newest = [], {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):  # the kill may have cut the last line
            metrics = json.loads(line)
            if metrics["step"] <= step:
                kept.append(line + "\n")
                newest |= metrics
    write_text(path, "".join(kept))
    newest.pop("step", None)
    return newest


def _introduction(state: Run) -> str:
    settings, data, decoder = state.config.train_config, state.config.data_config, state.model.decoder
    lookahead = state.model.margins[1] / data.midi_hz
    return (
        f"{sum(p.numel() for p in state.model.parameters()):,} parameters, receptive field "
        f"{decoder.receptive_field / data.audio_hz * 1000:.0f} ms, look-ahead {lookahead * 1000:.0f} ms, "
        f"{settings.batch_size} crops of {data.segment_length:g} s a step, {settings.steps - state.step} steps on "
        f"{state.device}"
    )


if __name__ == "__main__":
    run(main)
