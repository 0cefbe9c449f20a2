"""How samples are drawn, and by which engine: the options that the functions of this package share."""

import math
import numbers
from dataclasses import dataclass

from midi2wave.config import (
    DEFAULT_HISTORY_LEVEL,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_TEMPERATURE,
    MIN_HISTORY_LEVEL,
    SAMPLER_WEIGHTS,
    SAMPLERS,
    SAMPLING_METHODS,
    SamplerWeights,
    SamplingConfig,
    SamplingMethod,
)
from midi2wave.utils.errors import InputError

# Formats that only some samplers have; the last one is suggested instead of another.
SAMPLERS_WITH_WEIGHTS = {"bfloat16": ("auto", "triton", "numba"), "float16": ("triton",)}


@dataclass(frozen=True)
class SamplingOptions:
    """How samples are drawn, and by which engine.

    Attributes:
        temperature: 1: the model's own distribution; less: less noise and less variety.
        sampling: random: each sample is drawn from its distribution; mean: it is the mean, which does not depend on the
            seed (`WaveNet.draw`).
        guidance: Scale of classifier-free guidance (`WaveNet.guide`); 1: none, 0: the null condition.
        history_level: How disturbed the model is to take its own past samples to be, in dB relative to the most of its
            training; for models without data_config.history_level_input it is ignored.
        seed: Seed of the uniforms that the samples are drawn with.
        sampler: Engine: torch, numba, cuda or triton; auto is numba.
        threads: Threads of the numba engine, at most as many as there are cores; 0: all that help.
        weights: float32; bfloat16, which is faster and not exact (numba and triton); float16 (triton only); auto:
            bfloat16 where it is faster.
        block_frames: Most frames of a block, for what is played while it is generated (numba and torch); 0: the engine
            chooses. The samples do not depend on it.

    Raises:
        InputError: If a value is out of its range, or the engine does not have these weights.
    """

    temperature: float = 1.0
    sampling: SamplingMethod = "random"
    guidance: float = 1.0
    history_level: float = DEFAULT_HISTORY_LEVEL
    seed: int = 0
    sampler: str = "auto"
    threads: int = 0
    weights: SamplerWeights = "float32"
    block_frames: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        self._check_numbers()
        if self.sampling not in SAMPLING_METHODS:
            raise InputError(f"sampling {self.sampling!r} is unknown; expected one of {', '.join(SAMPLING_METHODS)}")
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler {self.sampler!r} is unknown; expected one of {', '.join(SAMPLERS)}")
        if self.weights not in SAMPLER_WEIGHTS:
            raise InputError(f"weights {self.weights!r} are unknown; expected one of {', '.join(SAMPLER_WEIGHTS)}")
        samplers = SAMPLERS_WITH_WEIGHTS.get(self.weights, SAMPLERS)
        if self.sampler not in samplers:
            raise InputError(f"sampler {self.sampler} has no {self.weights} weights; choose {samplers[-1]} or float32")

    def _check_numbers(self) -> None:
        for name in ("temperature", "guidance", "history_level", "seed", "threads", "block_frames"):
            whole = name not in ("temperature", "guidance", "history_level")
            require_number(name, getattr(self, name), whole=whole)
        if not (math.isfinite(self.temperature) and 0 < self.temperature <= MAX_TEMPERATURE):
            raise InputError(f"temperature = {self.temperature}: expected more than 0, at most {MAX_TEMPERATURE}")
        if not (math.isfinite(self.guidance) and 0 <= self.guidance <= MAX_GUIDANCE):
            raise InputError(f"guidance = {self.guidance}: expected 0 to {MAX_GUIDANCE}")
        if not MIN_HISTORY_LEVEL <= self.history_level <= 0:
            raise InputError(f"history_level = {self.history_level}: expected {MIN_HISTORY_LEVEL:g} to 0 (dB)")
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"seed = {self.seed}: expected 0 to {MAX_SEED}")
        for name, meaning in (("threads", "as many as help"), ("block_frames", "the engine chooses")):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)}: expected 0 ({meaning}) or more")

    @classmethod
    def from_config(cls, settings: SamplingConfig) -> "SamplingOptions":
        """The options that a config block of a command states."""
        return cls(
            temperature=settings.temperature,
            sampling=settings.sampling,
            guidance=settings.guidance,
            history_level=settings.history_level,
            seed=settings.seed,
            sampler=settings.sampler,
            threads=settings.sampler_threads,
            weights=settings.sampler_weights,
        )


def require_number(name: str, value: object, *, whole: bool = False) -> None:
    """Refuse what is no number, and truth values, which Python takes for numbers.

    Args:
        name: What the value is called, for the message.
        value: The value.
        whole: Whether it must be an integer.

    Raises:
        InputError: It is not such a number.
    """
    if not isinstance(value, numbers.Integral if whole else numbers.Real) or isinstance(value, bool):
        raise InputError(f"{name} = {value!r}: expected {'a whole number' if whole else 'a number'}")


DEFAULT_OPTIONS = SamplingOptions()
