"""The options of a fine-tuning, and what it makes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midi2wave.config import MAX_SEED, VALIDATION_SEED
from midi2wave.finetuning.pieces import MAX_HOLD_OUT, MIN_HOLD_OUT
from midi2wave.finetuning.schedule import MAX_MINUTES, MIN_MINUTES, MIN_STEPS
from midi2wave.sampling.options import require_number
from midi2wave.utils.cli import choose_device
from midi2wave.utils.errors import InputError

DEFAULT_MINUTES = 30.0
# Test clips, which both models generate: fewer for a short training.
N_CLIPS, FEW_CLIPS = 8, 4
SHORT_MINUTES = 10.0


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of a fine-tuning.

    Attributes:
        minutes: Minutes of training; preparation and evaluation are not counted. None: DEFAULT_MINUTES, or `steps`.
        steps: Optimiser steps, in place of `minutes`; None: as many as fit into them.
        base: Weights to begin with; "": the shipped ones that find the recordings most likely.
        hold_out: Part of the recordings that is held out, once for validation and once for testing.
        licence: Licence of the new weights; "": that of the last call, or not stated.
        seed: Seed of split and crops.
        jobs: Recordings that are read at once.
        device: auto, cpu, cuda or cuda:N.
    """

    minutes: float | None = None
    steps: int | None = None
    base: str = ""
    hold_out: float = 0.1
    licence: str = ""
    seed: int = 0
    jobs: int = 1
    device: str = "auto"

    def check(self) -> None:
        """Raise InputError for an impossible value."""
        self._check_types()
        if self.minutes is not None and self.steps is not None:
            raise InputError("minutes and steps are given; give one of them")
        if self.minutes is not None and not MIN_MINUTES <= self.minutes <= MAX_MINUTES:
            limits = f"{MIN_MINUTES:g} to {MAX_MINUTES}"
            raise InputError(f"--minutes {self.minutes:g}: expected {limits}")
        if self.steps is not None and self.steps < MIN_STEPS:
            raise InputError(f"--steps {self.steps}: expected {MIN_STEPS} or more")
        if not MIN_HOLD_OUT <= self.hold_out <= MAX_HOLD_OUT:
            raise InputError(f"--hold_out {self.hold_out:g}: expected {MIN_HOLD_OUT:g} to {MAX_HOLD_OUT:g}")
        if not 0 <= self.seed <= MAX_SEED or self.seed == VALIDATION_SEED:
            raise InputError(f"--seed {self.seed}: expected 0 to {MAX_SEED}, and not {VALIDATION_SEED}")
        if self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: expected 1 or more")
        if not self.licence.isprintable():
            raise InputError(f"--licence {self.licence!r}: expected one line of text")
        choose_device(self.device)

    def _check_types(self) -> None:
        """Raise InputError for what is no number, or no text."""
        for name in ("minutes", "steps", "hold_out", "seed", "jobs"):
            value = getattr(self, name)
            if value is not None or name in ("hold_out", "seed", "jobs"):
                require_number(name, value, whole=name in ("steps", "seed", "jobs"))
        if not isinstance(self.licence, str):
            raise InputError(f"licence = {self.licence!r}: expected a text")

    @property
    def length(self) -> dict[str, Any]:
        """The length of the training, as the user gave it."""
        if self.steps is not None:
            return {"steps": self.steps}
        return {"minutes": DEFAULT_MINUTES if self.minutes is None else self.minutes}

    @property
    def n_clips(self) -> int:
        """The number of test clips."""
        return FEW_CLIPS if self.length.get("minutes", SHORT_MINUTES) < SHORT_MINUTES else N_CLIPS


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning has made.

    Attributes:
        weights: The weights file, for `midi2wave.load` and `inference.py`.
        play_config: The config for `inference.py -c`.
        card: The model card.
        page: The page to listen.
        verdict: Whether it worked, in words.
        comparison: Scores of the base model and of the fine-tuned one, as of `comparison.compare`.
    """

    weights: Path
    play_config: Path
    card: Path
    page: Path
    verdict: str
    comparison: dict[str, Any]
