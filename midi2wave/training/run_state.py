"""Everything that training changes, and its road to the disk and back: a run that begins, goes on, or is saved.

A run folder holds config.json, checkpoints (`checkpoint.py`) and the log (`training_log.py`). What a step does is a
pure function of the state and the step's number: crops, noise and learning rate are drawn from no generator that would
have to be stored, so that a run that goes on from a checkpoint repeats the lost steps bit for bit.
"""

import contextlib
import copy
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from midi2wave import checkpoint
from midi2wave.config import Config, TrainConfig
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.training.cuda_graph import GraphedPass
from midi2wave.training.distributed import SINGLE_PROCESS, World, local_device
from midi2wave.training.hardware import choose_precision
from midi2wave.training.log import METRICS_NAME
from midi2wave.training.log_mel import window_samples
from midi2wave.training.validation import Validation, crops_for_model, load_validation
from midi2wave.utils.atomic_files import remove, remove_all_partial_files, write_text
from midi2wave.utils.cli import choose_device, format_error, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_folder
from wavenet import WaveNet, build_model

CONFIG_NAME = "config.json"
CACHED_SAMPLES = 16384  # of one pass on a CPU: tensors of more leave its caches between one operation and the next
CROPS_OF_CODES = 64  # from which the first codes are taken
CONTEXT_PARTS = ("context.", "mel_head.")


@dataclass
class Run:
    """A run: what training changes (model, average, optimizer, step, best), and what it needs to do so."""

    config: Config
    folder: Path
    device: torch.device
    model: WaveNet
    average: WaveNet  # exponential moving average of the weights: validated, sampled from and shipped
    optimizer: torch.optim.Optimizer
    validation: Validation | None = None
    world: World = SINGLE_PROCESS
    precision: torch.dtype = torch.float32
    micro_batch: int = 1  # crops in one pass
    step: int = 0
    saved_step: int = -1
    best: tuple[float, int] = (math.inf, -1)  # lowest validation_nll, and its step
    n_validations_without_gap: int = 0  # in a row, at which the decoder made no use of the MIDI
    recorded: GraphedPass | None = None  # a pass of training, once it is recorded

    def __post_init__(self) -> None:
        self.called = self.world.wrap(self.model, self.device)  # how the model is called in training
        # Whether a pass is still to be recorded. Several processes talk to each other on the way back, and are not.
        self.to_record = self.config.train_config.cuda_graph and self.device.type == "cuda" and self.world.size == 1


def create_or_resume_run(
    config: Config, *, force: bool, world: World = SINGLE_PROCESS, held: contextlib.ExitStack | None = None
) -> Run:
    """A new run, or an old one as its newest checkpoint left it; `held` then keeps other runs out of its folder.

    Raises InputError where config and folder do not fit, or another run is working on it.
    """
    settings, data = config.train_config, config.data_config
    folder, device = Path(settings.output_directory), choose_device(local_device(settings.device))
    torch.manual_seed(settings.seed)
    model = build_model(config).to(device)
    if settings.checkpoint_path and (force or not checkpoint.step_folders(folder)):
        weights, theirs, _ = checkpoint.load_weights(settings.checkpoint_path)
        # another piano's strings are what training from these weights may be for
        if wrong := checkpoint.differences(config, theirs, data_keys=checkpoint.SHAPE_KEYS):
            raise InputError(f"{settings.checkpoint_path} holds another model: {'; '.join(wrong)}")
        checkpoint.fit_weights(model, weights, settings.checkpoint_path)
    crops = crops_for_model(
        data.dataset_path, data, model, settings.seed
    )  # says what is wrong before anything is touched
    window = window_samples(data.audio_hz, crops.hop)
    if model.mel_head is not None and crops.n_frames * crops.hop < window:
        raise InputError(
            f"data_config.segment_length = {data.segment_length:g}: expected at least {window / data.audio_hz:g} s, "
            "the window of the auxiliary head's spectrum; or cond_wavenet_config.n_mels = 0"
        )
    validation = load_validation(config, model, world) if data.validation_path else None
    micro_batch = choose_micro_batch_size(settings, world, device, crops.n_frames * crops.hop)
    if world.is_main_process:
        _check_folder(folder)
        if held:
            held.enter_context(lock_folder(folder))
        _clear(folder, force=force)
    world.barrier()
    stored = checkpoint.load_training(folder, quiet=not world.is_main_process)
    if stored and (wrong := checkpoint.differences(config, stored[1])):
        raise InputError(
            f"{folder} holds a run with another model: {'; '.join(wrong)}; choose another output_directory"
        )
    if stored:
        checkpoint.fit_weights(model, stored[0]["model"], folder)
    elif model.n_codes and not settings.checkpoint_path:
        features = torch.stack([crops[index]["features"] for index in range(CROPS_OF_CODES)])
        model.context.init_codebook_from_features(features.to(device))
    average = copy.deepcopy(model).requires_grad_(False).eval()
    average.decoder.gates = GateKernels(recompute=True)  # it needs no sums for a backward pass
    optimizer = make_optimizer(model, settings)
    precision = choose_precision(settings.precision, device)
    state = Run(config, folder, device, model, average, optimizer, validation, world, precision, micro_batch)
    if stored:
        _go_on(state, stored[0])
    if len(set(world.all_gather((state.step, state.best)))) > 1:
        raise InputError(f"the processes found different checkpoints in {folder}: it must be one that all of them see")
    if world.is_main_process:
        write_text(folder / CONFIG_NAME, json.dumps(config.as_dict(), indent=2) + "\n")
    model.decoder.gates = _gates(settings, device, speaks=world.is_main_process)
    return state


def choose_micro_batch_size(settings: TrainConfig, world: World, device: torch.device, crop_samples: int) -> int:
    """How many crops go through the model at once. Raises InputError if batch_size can't be shared out like that."""
    if settings.batch_size % world.size:
        raise InputError(
            f"train_config.batch_size = {settings.batch_size}: expected a multiple of the {world.size} processes"
        )
    share = settings.batch_size // world.size
    if settings.micro_batch_size:
        if share % settings.micro_batch_size:
            raise InputError(
                f"train_config.micro_batch_size = {settings.micro_batch_size}: expected a divisor of the "
                f"{share} crops of a process (batch_size / processes)"
            )
        return settings.micro_batch_size
    fits = share if device.type == "cuda" else max(1, CACHED_SAMPLES // crop_samples)
    return max(n for n in range(1, share + 1) if share % n == 0 and n <= fits)


def make_optimizer(model: torch.nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW with decay of the matrices only; fused, so that a step can be skipped without asking the device.

    Each group's `factor` of the learning rate is 1, or context_learning_rate for the context stack and its mel head.
    """
    groups = []
    for of_context, factor in ((False, 1.0), (True, settings.context_learning_rate)):
        names = [name for name, _ in model.named_parameters() if name.startswith(CONTEXT_PARTS) == of_context]
        of_part = [model.get_parameter(name) for name in names]
        for decay, part in ((settings.weight_decay, [p for p in of_part if p.ndim > 1]),
                            (0.0, [p for p in of_part if p.ndim <= 1])):  # fmt: skip
            groups.append({"params": part, "weight_decay": decay, "factor": factor})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)


def save(state: Run) -> str | None:
    """Save a checkpoint; if that is not possible (full disk), say and return why.

    Raises InputError if the weights are not finite any more.
    """
    if not all(torch.isfinite(p).all() for p in state.model.parameters()):
        raise InputError(
            f"the weights of step {state.step} are not finite: not saved; lower train_config.learning_rate"
        )
    if not state.world.is_main_process:
        state.saved_step = state.step
        return None
    training = {
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "best": list(state.best),
    }
    settings = state.config.train_config
    try:
        checkpoint.save(
            state.folder,
            state.step,
            state.average.state_dict(),
            training,
            state.config,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            best_step=state.best[1],
        )
    except OSError as error:
        log(f"the checkpoint of step {state.step} could not be saved: {format_error(error)}")
        return format_error(error)
    state.saved_step = state.step
    return None


def _go_on(state: Run, stored: dict) -> None:
    """Take over what a checkpoint holds beside the weights."""
    settings = state.config.train_config
    state.average.load_state_dict(stored["average"])
    state.optimizer.load_state_dict(stored["optimizer"])
    for group, own in zip(
        state.optimizer.param_groups, make_optimizer(state.model, settings).param_groups, strict=True
    ):
        # the config's and ours, not the stored ones
        group.update(weight_decay=own["weight_decay"], factor=own["factor"], fused=True)
    state.step = state.saved_step = stored["step"]
    state.best = tuple(stored.get("best", state.best))
    if state.step > settings.steps:
        raise InputError(f"{state.folder} is at step {state.step} already; raise train_config.steps = {settings.steps}")
    if state.world.is_main_process:
        log(f"going on from step {state.step} of {state.folder}")


def _gates(settings: TrainConfig, device: torch.device, *, speaks: bool) -> GateKernels:
    if settings.compile:
        gates = compile_gate_kernels(device, recompute=settings.activation_checkpointing)
        if gates:
            return gates
        if speaks:
            log("torch.compile finds no compiler here: training goes on without it, slower "
                 "(train_config.compile=false silences this)")  # fmt: skip
    return GateKernels(recompute=settings.activation_checkpointing)


def _check_folder(folder: Path) -> None:
    """Make sure that the folder is new or a run's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"train_config.output_directory: {folder} is a file, expected a folder")
    foreign = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    if foreign and not (folder / CONFIG_NAME).is_file():
        raise InputError(f"{folder} is not empty and not the folder of a run; choose another output_directory")


def _clear(folder: Path, *, force: bool) -> None:
    """Remove what killed runs left aside; `force` removes the run's checkpoints, links and metrics too."""
    remove_all_partial_files(folder)
    if force:
        for old in checkpoint.step_folders(folder):
            shutil.rmtree(old)
        for name in (METRICS_NAME, checkpoint.LATEST_NAME, checkpoint.BEST_NAME):
            remove(folder / name)
