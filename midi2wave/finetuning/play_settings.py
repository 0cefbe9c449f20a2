"""How a model of a fine-tuning is played: the sampling options of its comparison and of `play.json`.

They depend on what the model was trained with.
"""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from midi2wave.config import DEFAULT_HISTORY_LEVEL, DataConfig, SamplingConfig, SamplingMethod

Settings = TypeVar("Settings", bound=SamplingConfig)


@dataclass(frozen=True)
class PlaySettings:
    """Sampling options.

    Attributes:
        sampling: As in inference_config.
        temperature: As in inference_config.
        guidance: As in inference_config.
        history_level: As in inference_config, in dB; only models with `data_config.history_level_input` have it.
    """

    sampling: SamplingMethod
    temperature: float
    guidance: float
    history_level: float

    def apply(self, settings: Settings) -> Settings:
        """A block of a config with these options."""
        return replace(
            settings,
            sampling=self.sampling,
            temperature=self.temperature,
            guidance=self.guidance,
            history_level=self.history_level,
        )

    def options(self, data: DataConfig) -> dict[str, Any]:
        """The options as entries of inference_config; without the history level where the model ignores it."""
        options = {"sampling": self.sampling, "temperature": self.temperature, "guidance": self.guidance}
        return options | ({"history_level": self.history_level} if data.history_level_input else {})

    def describe(self, data: DataConfig) -> str:
        """The options in words."""
        level = f", history level {self.history_level:g} dB" if data.history_level_input else ""
        return f"sampling {self.sampling}, temperature {self.temperature:g}{level}, guidance {self.guidance:g}"


# The mean of the predictions, as in configs/config_play.json, had more F1 on a real piano and was further from its
# sound (docs/own_piano.md).
WITH_LEVEL = PlaySettings("random", temperature=0.6, guidance=1.0, history_level=-25.0)
# As in configs/real/config_play.json.
WITHOUT_LEVEL = PlaySettings("random", temperature=0.8, guidance=1.0, history_level=DEFAULT_HISTORY_LEVEL)


def play_settings(data: DataConfig) -> PlaySettings:
    """The options for models of a data config."""
    return WITH_LEVEL if data.history_level_input else WITHOUT_LEVEL
