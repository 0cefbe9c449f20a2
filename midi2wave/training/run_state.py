"""Training state: create, resume and checkpoint a run.

A run folder holds config.json, checkpoints (see `midi2wave.checkpoint`) and the log (see `midi2wave.training.log`). The
effect of a step is a pure function of the state and the step's number: crops, noise and learning rate come from no
generator whose state would have to be stored. A run that resumes from a checkpoint therefore repeats the lost steps bit
for bit.
"""

import contextlib
import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from midi2wave import checkpoint, checkpoint_folders
from midi2wave.config import Config, TrainConfig
from midi2wave.data.crops import Crops
from midi2wave.modules.residual_stack import GateKernels, compile_gate_kernels
from midi2wave.training.cuda_graph import GraphedPass
from midi2wave.training.data_loader import crop_samples, crops_for_model
from midi2wave.training.distillation import GuidedTeacher, load_teacher
from midi2wave.training.distributed import SINGLE_PROCESS, World, local_device
from midi2wave.training.hardware import choose_precision
from midi2wave.training.log import METRICS_NAME
from midi2wave.training.log_mel import window_samples
from midi2wave.training.optimizer import make_optimizer
from midi2wave.training.run_folder import (
    Fingerprint,
    begin_run,
    check_resume,
    log_changes,
    recordings_fingerprint,
    require_run_folder,
)
from midi2wave.training.validation import ValidationCrops, load_validation
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import choose_device, format_error, log
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_folder
from midi2wave.weight_files import check_values
from wavenet import WaveNet, build_model

RESUME_BEFORE = "remove its folder: the same command then resumes from the checkpoint before it, if there is one"
MAX_CPU_PASS_SAMPLES = 16384  # With more samples in one pass, tensors leave a CPU's caches between two operations.
CODEBOOK_CROPS = 64  # The codebook is initialised from the context of so many crops.


@dataclass
class Run:
    """State of a training run, and what it needs to go on.

    Attributes:
        config: The resolved config.
        folder: The run folder.
        device: Where the model is.
        model: The weights that are trained.
        ema_model: Exponential moving average of the weights: validated, sampled from and shipped.
        optimizer: Its state is part of the checkpoint.
        validation: This process's validation crops, None without validation.
        world: The processes that train together.
        precision: Number format of the matrix products.
        micro_batch_size: Crops in one forward and backward pass.
        teacher: The model from which it learns; None: it learns from the recordings.
        recordings: What identifies the recordings of its crops.
        step: Number of steps done.
        updating: Whether a step is changing weights, average and optimiser state, which then belong to no step.
        saved_step: Step of the newest checkpoint, -1 without one.
        best: Lowest `validation_nll`, with a teacher `validation_divergence`, and its step.
        n_validations_without_gap: Validations in a row in which the decoder made no use of the MIDI.
        graphed_pass: The captured CUDA graph of a pass.
        ddp_model: The model as training must call it: wrapped if there are several processes.
        capture_pending: True until a CUDA graph has been captured. DistributedDataParallel communicates in the backward
            pass, so that it is False for several processes.
    """

    config: Config
    folder: Path
    device: torch.device
    model: WaveNet
    ema_model: WaveNet
    optimizer: torch.optim.Optimizer
    validation: ValidationCrops | None = None
    world: World = SINGLE_PROCESS
    precision: torch.dtype = torch.float32
    micro_batch_size: int = 1
    teacher: GuidedTeacher | None = None
    recordings: Fingerprint = field(default_factory=dict)
    step: int = 0
    updating: bool = False
    saved_step: int = -1
    best: tuple[float, int] = (math.inf, -1)
    n_validations_without_gap: int = 0
    graphed_pass: GraphedPass | None = None
    ddp_model: nn.Module = field(init=False)
    capture_pending: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ddp_model = self.world.wrap(self.model, self.device)
        cuda_graph = self.config.train_config.cuda_graph
        self.capture_pending = cuda_graph and self.device.type == "cuda" and self.world.size == 1


def create_or_resume_run(
    config: Config, *, force: bool, world: World = SINGLE_PROCESS, exit_stack: contextlib.ExitStack | None = None
) -> Run:
    """Create a new run, or resume one from its newest checkpoint.

    Args:
        config: The resolved config.
        force: Start anew in the folder of another run.
        world: The processes that train together.
        exit_stack: As long as it is open, no other run may work in the folder.

    Raises:
        InputError: Config and folder do not fit, or another run is working in the folder.
    """
    settings, data = config.train_config, config.data_config
    folder, device = Path(settings.output_directory), choose_device(local_device(settings.device))
    model = _initial_model(config, device, from_checkpoint=force or not checkpoint_folders.step_folders(folder))
    teacher = load_teacher(config, device)
    # Everything that may be wrong with the data is found before the folder is touched.
    crops = crops_for_model(data.dataset_path, data, model, settings.seed)
    _check_mel_window(config, model, crops)
    validation = load_validation(config, model, world) if data.validation_path else None
    micro_batch_size = choose_micro_batch_size(settings, world, device, crops.n_frames * crops.hop)
    if world.is_main_process:
        require_run_folder(folder)
        if exit_stack:
            exit_stack.enter_context(lock_folder(folder))
        _clear(folder, force=force)
    world.barrier()
    recordings = recordings_fingerprint(crops.folder)
    stored = _load_checkpoint(config, recordings, folder, quiet=not world.is_main_process)
    if stored:
        checkpoint.fit_weights(model, stored["model"], folder)
    elif model.n_codes and not settings.checkpoint_path:
        features = torch.stack([crops[index]["features"] for index in range(CODEBOOK_CROPS)])
        model.context.init_codebook_from_features(features.to(device))
    ema_model = copy.deepcopy(model).requires_grad_(False).eval()
    ema_model.decoder.gates = GateKernels(recompute=True)  # It has no backward pass to keep pre-activations for.
    optimizer = make_optimizer(model, settings)
    precision = choose_precision(settings.precision, device)
    state = Run(config, folder, device, model, ema_model, optimizer, validation, world, precision, micro_batch_size)
    state.teacher, state.recordings = teacher, recordings
    if stored:
        restore(state, stored)
    if len(set(world.all_gather((state.step, state.best)))) > 1:
        raise InputError(f"the processes found different checkpoints in {folder}: it must be one that all of them see")
    if world.is_main_process:
        begin_run(folder, config)
    model.decoder.gates = choose_gate_kernels(settings, device, verbose=world.is_main_process)
    return state


def make_unsaved_run(config: Config, device: torch.device, precision: torch.dtype) -> Run:
    """Create a run with random weights that has no folder and no validation, for measurements.

    Args:
        config: The resolved config.
        device: Where the model is.
        precision: Number format of the matrix products.
    """
    settings = config.train_config
    torch.manual_seed(settings.seed)
    model = build_model(config).to(device)
    micro_batch_size = choose_micro_batch_size(settings, SINGLE_PROCESS, device, crop_samples(config.data_config))
    return Run(
        config,
        Path(),
        device,
        model,
        copy.deepcopy(model).requires_grad_(False),
        make_optimizer(model, settings),
        precision=precision,
        micro_batch_size=micro_batch_size,
    )


def choose_micro_batch_size(settings: TrainConfig, world: World, device: torch.device, n_crop_samples: int) -> int:
    """Choose how many crops go through the model at once.

    Args:
        settings: `micro_batch_size`, or 0 for an automatic choice, and `batch_size`.
        world: The processes that share a batch.
        device: Where the model is.
        n_crop_samples: Samples of a crop.

    Raises:
        InputError: The batch can't be shared out like that.
    """
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
    limit = share if device.type == "cuda" else max(1, MAX_CPU_PASS_SAMPLES // n_crop_samples)
    return max(n for n in range(1, share + 1) if share % n == 0 and n <= limit)


def save_checkpoint(state: Run) -> str | None:
    """Save a checkpoint of a run.

    Returns:
        None, or the reason why it could not be written (full disk), which is also logged.

    Raises:
        InputError: The weights are not finite.
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
        "average": state.ema_model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "best": list(state.best),
        "recordings": state.recordings,
    }
    settings = state.config.train_config
    try:
        checkpoint.save(
            state.folder,
            state.step,
            state.ema_model.state_dict(),
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


def restore(state: Run, stored: dict[str, Any]) -> None:
    """Take over average, optimiser state, step and best validation from a checkpoint's training state.

    Raises:
        InputError: The checkpoint is of a later step than the last one of the config.
    """
    settings = state.config.train_config
    state.ema_model.load_state_dict(stored["average"])
    _restore_optimizer(state, stored["optimizer"])
    configured_groups = make_optimizer(state.model, settings).param_groups
    for group, configured in zip(state.optimizer.param_groups, configured_groups, strict=True):
        # These come from the config, which may have changed, not from the checkpoint.
        group.update(weight_decay=configured["weight_decay"], factor=configured["factor"], fused=True)
    state.step = state.saved_step = stored["step"]
    if "best" in stored:
        nll, step = stored["best"]
        state.best = (nll, step)
    if state.step > settings.steps:
        raise InputError(f"{state.folder} is at step {state.step} already; raise train_config.steps = {settings.steps}")
    if state.world.is_main_process:
        log(f"going on from step {state.step} of {state.folder}")


def _restore_optimizer(state: Run, stored: dict[str, Any]) -> None:
    """Take over the optimiser's state. Raises InputError if it is that of other parameters, or not finite."""
    try:
        state.optimizer.load_state_dict(stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{state.folder}: the optimiser's state in its newest checkpoint is damaged ({format_error(error)}); "
            f"{RESUME_BEFORE}"
        ) from error
    for parameter, values in state.optimizer.state.items():
        moments = {name: tensor for name, tensor in values.items() if name != "step"}
        check_values(moments, state.folder)
        if any(tensor.shape != parameter.shape for tensor in moments.values()):
            raise InputError(
                f"{state.folder}: the optimiser's state in its newest checkpoint is that of other parameters; "
                f"{RESUME_BEFORE}"
            )


def _initial_model(config: Config, device: torch.device, *, from_checkpoint: bool) -> WaveNet:
    """The model of a new run: random weights, or those of `checkpoint_path`."""
    settings = config.train_config
    torch.manual_seed(settings.seed)
    model = build_model(config).to(device)
    if settings.checkpoint_path and from_checkpoint:
        weights, stored_config, _ = checkpoint.load_weights(settings.checkpoint_path)
        # The partials of the excitation may differ: another piano's may be the reason to train from these weights.
        if wrong := checkpoint.differences(config, stored_config, data_options=checkpoint.SHAPE_OPTIONS):
            raise InputError(
                f"train_config.checkpoint_path = {settings.checkpoint_path} holds another model: {'; '.join(wrong)}; "
                "set these options as it has them, or name another checkpoint"
            )
        checkpoint.fit_weights(model, weights, settings.checkpoint_path)
    return model


def _check_mel_window(config: Config, model: WaveNet, crops: Crops) -> None:
    """Make sure that a crop holds a window of the auxiliary head's spectrum."""
    data = config.data_config
    window = window_samples(data.audio_hz, crops.hop)
    if model.mel_head is not None and crops.n_frames * crops.hop < window:
        raise InputError(
            f"data_config.segment_length = {data.segment_length:g}: expected at least {window / data.audio_hz:g} s, "
            "the window of the auxiliary head's spectrum; or cond_wavenet_config.n_mels = 0"
        )


def _load_checkpoint(config: Config, recordings: Fingerprint, folder: Path, *, quiet: bool) -> dict[str, Any] | None:
    """Training state of a run's newest checkpoint, None for a new run."""
    loaded = checkpoint.load_training(folder, quiet=quiet)
    if not loaded:
        return None
    stored, stored_config = loaded
    if missing := {"model", "average", "optimizer"} - stored.keys():
        raise InputError(
            f"the newest checkpoint in {folder} is damaged (it has no {', '.join(sorted(missing))}); {RESUME_BEFORE}"
        )
    changed = check_resume(config, recordings, stored_config, stored, folder)
    if not quiet:
        log_changes(changed)
    return stored


def choose_gate_kernels(settings: TrainConfig, device: torch.device, *, verbose: bool) -> GateKernels:
    """Compiled gate kernels where that is wanted and possible.

    Args:
        settings: Whether they are compiled, and whether pre-activations are computed again.
        device: Where the model is.
        verbose: Whether a line says why they are not compiled.
    """
    if settings.compile:
        reasons: list[str] = []
        recompute = settings.activation_checkpointing
        if kernels := compile_gate_kernels(device, recompute=recompute, on_failure=reasons.append):
            return kernels
        if verbose:
            log(
                f"torch.compile does not work here ({'; '.join(reasons)}): training goes on without it, slower "
                "(train_config.compile=false silences this)"
            )
    return GateKernels(recompute=settings.activation_checkpointing)


def _clear(folder: Path, *, force: bool) -> None:
    """Remove temporary files of killed runs; `force` removes the run's checkpoints, links and metrics too."""
    remove_partial_files(folder)
    if force:
        checkpoint_folders.remove_checkpoints(folder)
        (folder / METRICS_NAME).unlink(missing_ok=True)
