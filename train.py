"""Step 3: a processed folder -> a run folder with checkpoints that generate.

    python train.py -c config_train.json
    tensorboard --logdir runs

The same command goes on from the newest checkpoint of the run folder; Ctrl-C saves one first. The loss is the negative
log-likelihood in nats per sample. At every validation stands beside it the one with another crop's MIDI: as long as the
two are equal, the decoder ignores the MIDI.
"""

import contextlib
import copy
import functools
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import checkpoint
from atomic import write_text
from audio import write_wav
from cli import choose_device, note, parser, run
from config import Config, TrainConfig, load_config
from dataset import Crops, ProcessedFolder, batches
from errors import InputError
from midi import clip
from report import clip_figure, save_figure
from synthesis import synthesize
from wavenet import WaveNet

NEEDS = ("train_config", "data_config", "wavenet_config", "cond_wavenet_config")
CONFIG_NAME, METRICS_NAME, SAMPLES_NAME = "config.json", "metrics.jsonl", "samples"
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
    step: int = 0
    last: dict[str, float] = field(default_factory=dict)  # newest value of every metric


def main(argv: list[str] | None = None) -> int:
    """Run the step; returns the exit code."""
    args = parser(__doc__, config="config_train.json").parse_args(argv)
    config = load_config(args.config, NEEDS, args.overrides)
    if not config.data_config.dataset_path:
        raise InputError(f"{args.config}: data_config.dataset_path is empty; make one with preprocess_maestro.py")
    started = time.monotonic()
    state = begin(config, force=args.force)
    with contextlib.closing(SummaryWriter(str(state.folder), purge_step=state.step)) as board:
        train(state, board)
    result = {"run_folder": str(state.folder), "step": state.step, **state.last}
    result["elapsed_seconds"] = time.monotonic() - started
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in state.last.items())
    print(json.dumps(result) if args.as_json else f"{state.folder}: step {state.step}, {numbers}")
    return 0


def begin(config: Config, *, force: bool) -> Run:
    """A new run, or an old one as its newest checkpoint left it. Raises InputError where the two do not fit."""
    settings, data = config.train_config, config.data_config
    folder, device = Path(settings.output_directory), choose_device(settings.device)
    torch.manual_seed(settings.seed)
    model = checkpoint.build_model(config).to(device)
    for path in filter(None, (data.dataset_path, data.validation_path)):
        _crops(config, model, path, settings.seed, range(0))  # says what is wrong with the data before the first step
    _claim_run(folder, force=force)
    stored = checkpoint.load_training(folder)
    if stored and (wrong := checkpoint.differences(config, stored[1])):
        raise InputError(
            f"{folder} holds a run with another model: {'; '.join(wrong)}; choose another output_directory"
        )
    if stored:
        checkpoint.fit_weights(model, stored[0]["model"], folder)
    elif settings.checkpoint_path:
        weights, theirs, _ = checkpoint.load_weights(settings.checkpoint_path)
        if wrong := checkpoint.differences(config, theirs):
            raise InputError(f"{settings.checkpoint_path} holds another model: {'; '.join(wrong)}")
        checkpoint.fit_weights(model, weights, settings.checkpoint_path)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99))
    state = Run(config, folder, device, model, average, optimizer)
    if stored:
        average.load_state_dict(stored[0]["average"])
        optimizer.load_state_dict(stored[0]["optimizer"])
        state.step = stored[0]["step"]
        if state.step > settings.steps:
            raise InputError(f"{folder} is at step {state.step} already; raise train_config.steps = {settings.steps}")
        note(f"going on from step {state.step} of {folder}")
    state.last = _keep_metrics(folder / METRICS_NAME, state.step)
    write_text(folder / CONFIG_NAME, json.dumps(config.as_dict(), indent=2) + "\n")
    return state


def train(state: Run, board: SummaryWriter) -> None:
    """The loop: from the state's step to the last one, saving at the end, and also when it is interrupted or fails."""
    settings = state.config.train_config
    note(_introduction(state))
    indices = range(state.step * settings.batch_size, settings.steps * settings.batch_size)
    noise = functools.partial(history_noise, settings)
    crops = _crops(state.config, state.model, state.config.data_config.dataset_path, settings.seed, indices, noise)
    samples = settings.batch_size * crops.n_frames * crops.hop
    bar = tqdm(
        total=settings.steps, initial=state.step, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
    )
    losses, skipped, seconds, logged = [], 0, 0.0, state.step
    try:
        began = time.monotonic()
        for batch in batches(crops, settings.batch_size, state.config.data_config.n_workers):
            loss, norm = update(state, batch)
            if math.isfinite(loss) and math.isfinite(norm):
                losses.append(loss)
                skipped = 0
            else:
                skipped = _skip(state, skipped)
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
            began = time.monotonic()
    except KeyboardInterrupt:
        note(f"interrupted at step {state.step}; the same command goes on from there")
    finally:
        bar.close()
        if state.step % settings.iters_per_checkpoint:
            save(state)


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
    """One optimiser step; returns loss and gradient norm. A non-finite gradient changes nothing."""
    settings = state.config.train_config
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, settings)
    loss = negative_log_likelihood(state.model, batch, state.device)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.gradient_clip)
    if torch.isfinite(norm):
        state.optimizer.step()
        # At the start the average follows quickly, lest it hold on to the random weights.
        decay = min(settings.ema_decay, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.average.parameters()), list(state.model.parameters()), 1 - decay)
    return loss.item(), norm.item()


def negative_log_likelihood(
    model: WaveNet, batch: dict[str, Tensor], device: torch.device, *, shuffled=False
) -> Tensor:
    """Mean over a batch in nats per sample; `shuffled` gives every crop the conditioning of its neighbour."""
    here = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    features, excitation = here["features"], here.get("excitation")
    if shuffled:
        features = features.roll(1, dims=0)
        excitation = None if excitation is None else excitation.roll(1, dims=0)
    previous, history = here["history"].tensor_split([model.decoder.taps], dim=1)
    params = model(history, features, excitation, previous)
    return -model.log_likelihood(params, here["samples"]).mean()


@torch.inference_mode()
def validate(state: Run) -> dict[str, float]:
    """Likelihood of the validation crops with their own MIDI and with another crop's, by the averaged weights."""
    settings, data = state.config.train_config, state.config.data_config
    crops = _crops(state.config, state.model, data.validation_path, VALIDATION_SEED, range(settings.validation_crops))
    true = shuffled = 0.0
    for batch in batches(crops, settings.batch_size, 0):
        share = len(batch["samples"]) / settings.validation_crops
        true += share * negative_log_likelihood(state.average, batch, state.device).item()
        shuffled += share * negative_log_likelihood(state.average, batch, state.device, shuffled=True).item()
    return {"validation_nll": true, "validation_nll_shuffled": shuffled, "validation_gap": shuffled - true}


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
    events = clip(performance, start, start + SAMPLE_SECONDS)
    blocks = synthesize(state.average, [events], n_frames, data, streams=[0], seed=0, prefix=prefix)
    output = torch.cat([torch.from_numpy(block[0].copy()) for block in blocks])
    figure = clip_figure(events, SAMPLE_SECONDS, data.audio_hz, truth, output.numpy(), title=f"step {state.step}",
                         handover_seconds=SAMPLE_PRIMED_SECONDS)  # fmt: skip
    stem = state.folder / SAMPLES_NAME / f"step_{state.step:08d}"
    write_wav(stem.with_suffix(".wav"), output.numpy(), data.audio_hz)
    save_figure(stem.with_suffix(".png"), figure)
    board.add_audio("primed", output / 32768, state.step, data.audio_hz)
    board.add_figure("primed", figure, state.step)


def save(state: Run) -> None:
    """Save a checkpoint of the state. Raises InputError instead if the weights are not finite any more."""
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
    checkpoint.save(state.folder, state.step, state.average.state_dict(), training, state.config, keep)


def _skip(state: Run, skipped: int) -> int:
    """Say that a step changed nothing; after ten in a row there is no point in going on."""
    note(f"step {state.step} was skipped: its loss or gradient is not finite")
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
    last = state.step == settings.steps
    if state.config.data_config.validation_path and (state.step % settings.iters_per_validation == 0 or last):
        log(state, board, **validate(state))
    if settings.iters_per_sample and state.step % settings.iters_per_sample == 0:
        write_sample(state, board)
    if state.step % settings.iters_per_checkpoint == 0:
        save(state)


def _crops(config: Config, model: WaveNet, path: str, seed: int, indices: range, noise=None) -> Crops:
    return Crops(
        ProcessedFolder(path),
        config.data_config,
        margins=model.margins,
        n_previous=model.decoder.taps,
        codes=not model.decoder.mixture,
        seed=seed,
        indices=indices,
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
