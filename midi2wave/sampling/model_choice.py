"""Which of two models to play: the better one where it plays in real time, else the faster one."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from midi2wave.checkpoint import LoadedCheckpoint, load_for_generation
from midi2wave.config import Config, InferenceConfig
from midi2wave.midi.performance import empty_performance
from midi2wave.sampling import engines
from midi2wave.sampling.options import SamplingOptions
from midi2wave.sampling.synthesis import synthesize
from midi2wave.utils.cli import log
from midi2wave.utils.cores import cpu_quota
from midi2wave.utils.errors import InputError

# Time for which a model is tried, after its first block. The engine tries none without followers so early.
TRIAL_SECONDS = 0.1
# Other processes may use the cores during a trial, which decides about all pieces of a folder. A model that seems too
# slow then is tried again, up to so many times, with a pause before each in which they may end.
MAX_TRIALS = 5
PAUSE_SECONDS = 0.4
# A trial counts as undisturbed if its threads had the cores for this portion of its time. Followers have nothing to do
# while the conditioning of a block is computed.
UNDISTURBED_PORTION = 0.75
# Seconds of audio per second from which on the better model is played.
MIN_SPEED = 1.0

MODEL_OPTION = "inference_config.model_filename"
FAST_MODEL_OPTION = "inference_config.fast_model_filename"


@dataclass(frozen=True)
class Speed:
    """How many seconds of audio a second a model makes on this machine."""

    now: float  # by the clock, beside all other programs
    own_core: float  # at least so many if one core, or what this process may have of one, were its own


def named_model(settings: InferenceConfig, overrides: Sequence[str], quality: str) -> InferenceConfig:
    """The settings without the config's faster model if the command line names another model than the config's.

    The faster model stands in for the model beside which the config names it, not for any other.

    Args:
        settings: With the overrides applied.
        overrides: Texts `block.option=value`.
        quality: best, fast or auto.

    Raises:
        InputError: fast was asked for, which is the config's, and another model by an override.
    """
    changed = {override.partition("=")[0].strip() for override in overrides}
    if not settings.fast_model_filename or MODEL_OPTION not in changed or FAST_MODEL_OPTION in changed:
        return settings
    if quality == "fast":
        raise InputError(
            f"--quality fast plays the config's {settings.fast_model_filename}, --set {MODEL_OPTION} another model; "
            "give one of both"
        )
    return replace(settings, fast_model_filename="")


def load_chosen_model(
    settings: InferenceConfig, config: Config, source: str, quality: str, record: Path
) -> tuple[InferenceConfig, LoadedCheckpoint]:
    """Load the model to play, and say in a line which it is where there are two.

    Args:
        settings: With `model_filename`, and perhaps `fast_model_filename`.
        config: The command's whole config.
        source: The file of that config, for messages.
        quality: best: model_filename. fast: fast_model_filename. auto: the one that the output folder's record names,
            so that a rerun adds to its pieces; else the best one that plays in real time on this machine.
        record: The record of the output folder; it need not exist.

    Returns:
        The settings with the model that was chosen, and that model.

    Raises:
        InputError: As `load_for_generation`, or fast was asked for and there is none.
    """
    fast = replace(settings, model_filename=settings.fast_model_filename)
    if not settings.fast_model_filename:
        if quality == "fast":
            raise InputError(f"--quality fast: {source} names no inference_config.fast_model_filename")
        return settings, load_for_generation(settings, config, source)
    if quality == "fast" or (quality == "auto" and _recorded_model(record) == fast.model_filename):
        return fast, load_for_generation(fast, config, source)
    loaded = load_for_generation(settings, config, source)
    if quality == "best" or _recorded_model(record) == settings.model_filename:
        return settings, loaded
    speed = measured_speed(loaded, settings)
    if speed.own_core >= MIN_SPEED:
        log(f"{settings.model_filename} plays at {_description(speed)}")
        return settings, loaded
    log(
        f"{settings.model_filename} would play at {speed.own_core:.2f} x real time on this machine: "
        f"{fast.model_filename} is played instead; --quality best plays the former, into another folder (--out)"
    )
    return fast, load_for_generation(fast, config, source)


def _description(speed: Speed) -> str:
    """The speed of a model that is fast enough."""
    if speed.now >= MIN_SPEED:
        return f"{speed.now:.1f} x real time on this machine"
    return (
        f"{speed.now:.2f} x real time beside the other programs that run on this machine now; "
        f"with a core of its own at {speed.own_core:.1f} x"
    )


def measured_speed(loaded: LoadedCheckpoint, settings: InferenceConfig) -> Speed:
    """How fast the model plays here, one stream, without notes: the best of some trials.

    One is enough if the model would play in real time on a core of its own, or if nothing disturbed it.
    """
    best = Speed(0.0, 0.0)
    for i in range(MAX_TRIALS):
        if i:
            time.sleep(PAUSE_SECONDS)
        speed, is_undisturbed = _try(loaded, settings)
        best = Speed(max(best.now, speed.now), max(best.own_core, speed.own_core))
        if best.own_core >= MIN_SPEED or is_undisturbed:
            break
    return best


def _try(loaded: LoadedCheckpoint, settings: InferenceConfig) -> tuple[Speed, bool]:
    """Play for a moment; returns the speed, and whether the threads had their cores."""
    data = loaded.config.data_config
    options = SamplingOptions.from_config(settings)
    is_numba = options.sampler in ("auto", "numba")
    n_threads = engines.n_threads(options.threads, 1, loaded.model.decoder) if is_numba else 1
    n_frames = 60 * data.midi_hz
    with torch.inference_mode():
        source = empty_performance() if data.conditional else None
        blocks = synthesize(loaded.model, [source], n_frames, data, options, streams=[0])
        next(blocks)  # The compiled code is loaded.
        start, cpu_start, n_samples = time.perf_counter(), time.process_time(), 0
        while (elapsed := time.perf_counter() - start) < TRIAL_SECONDS:
            n_samples += next(blocks).shape[1]
        cpu_seconds = time.process_time() - cpu_start
        blocks.close()
    core = min(1.0, cpu_quota() or 1.0)
    is_undisturbed = cpu_seconds >= UNDISTURBED_PORTION * n_threads * core * elapsed
    # The clock of CPU time may be coarse (15 ms on Windows).
    own_core_seconds = max(min(elapsed, cpu_seconds / core), elapsed / 10)
    audio_seconds = n_samples / data.audio_hz
    return Speed(audio_seconds / elapsed, audio_seconds / own_core_seconds), is_undisturbed


def _recorded_model(record: Path) -> str | None:
    """The model whose results an output folder holds; None if there is no readable record."""
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["inference_config"]["model_filename"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
