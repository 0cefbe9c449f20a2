"""How a model of a fine-tuning is played: the sampling options of its comparison and of `play.json`.

They depend on what the model was trained with, and are those that its kind of model was played best with
(docs/experiments.md).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from midi2wave.config import DEFAULT_HISTORY_LEVEL, DataConfig, SamplingConfig

Settings = TypeVar("Settings", bound=SamplingConfig)


@dataclass(frozen=True)
class PlaySettings:
    """Sampling options.

    Attributes:
        temperature: As in inference_config.
        guidance: As in inference_config.
        history_level: As in inference_config, in dB; only models with `data_config.history_level_input` have it.
    """

    temperature: float
    guidance: float
    history_level: float

    def apply(self, settings: Settings) -> Settings:
        """A block of a config with these options."""
        return replace(settings, temperature=self.temperature, guidance=self.guidance, history_level=self.history_level)

    def options(self, data: DataConfig) -> dict[str, float]:
        """The options as entries of inference_config; without the history level where the model ignores it."""
        options = {"temperature": self.temperature, "guidance": self.guidance}
        return options | ({"history_level": self.history_level} if data.history_level_input else {})

    def describe(self, data: DataConfig) -> str:
        """The options in words."""
        level = f", history level {self.history_level:g} dB" if data.history_level_input else ""
        return f"temperature {self.temperature:g}{level}, guidance {self.guidance:g}"


# As in configs/config_play.json: at lower levels notes ring on, at higher ones there is more hiss.
WITH_LEVEL = PlaySettings(temperature=0.6, guidance=1.0, history_level=-25.0)
WITHOUT_LEVEL = PlaySettings(temperature=0.8, guidance=1.0, history_level=DEFAULT_HISTORY_LEVEL)


def play_settings(data: DataConfig) -> PlaySettings:
    """The options for models of a data config."""
    return WITH_LEVEL if data.history_level_input else WITHOUT_LEVEL
