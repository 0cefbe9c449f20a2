"""What a fine-tuning leaves to its user: one weights file, its card, a config that plays it, a page to listen."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midi2wave import checkpoint
from midi2wave.checkpoint_folders import WEIGHTS_NAME
from midi2wave.config import FINETUNED_CONFIG
from midi2wave.finetuning.blending import BLENDED_NAME
from midi2wave.finetuning.comparison import BASE_NAME, TUNED_NAME, describe
from midi2wave.finetuning.model_scores import EVALUATION_NAME
from midi2wave.finetuning.play_settings import play_settings
from midi2wave.plotting.listening_page import ListeningClip, write_listening_page
from midi2wave.utils.atomic_files import atomic_file, write_text

CARD_NAME = "model_card.md"
PAGE_NAME = "index.html"
NO_LICENCE = "not stated"


@dataclass(frozen=True)
class Provenance:
    """What a fine-tuned model is called, and where it comes from.

    Attributes:
        name: Its name, that of its file without suffix.
        recordings: Name of the user's folder.
        base: The weights that it began with.
        base_sha256: Their checksum.
        label: The label under which new recordings are played; "" without global conditioning.
        licence: The licence of the weights, as the user states it.
        base_licence: That of the base weights, as their file states it; "" if it does not.
    """

    name: str
    recordings: str
    base: str
    base_sha256: str
    label: str
    licence: str
    base_licence: str


def weights_path(out: Path, name: str) -> Path:
    """The file of the fine-tuned weights of this name."""
    return out / f"{name}.safetensors"


def _public_name(weights: str) -> str:
    """Weights without the folders of the user's machine; of a run its name, and the step."""
    return "/".join(Path(weights).parts[-3 if weights.endswith(WEIGHTS_NAME) else -1 :])


def play_command(out: Path) -> str:
    """The command that plays the model, for a shell."""
    words = ["python", "inference.py", "-c", str(out / FINETUNED_CONFIG), "--midi", "song.mid", "--out", "songs"]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def write_model(out: Path, provenance: Provenance) -> None:
    """Write the blended weights with their licences, and the config that plays them.

    Raises:
        InputError: There are no weights.
        OSError: The disk is full.
    """
    path = weights_path(out, provenance.name)
    # The user may have removed what is not needed any more.
    source = out / BLENDED_NAME if (out / BLENDED_NAME).is_file() else path
    weights, config, step = checkpoint.load_weights(source)
    notes = {
        checkpoint.LICENCE: provenance.licence or NO_LICENCE,
        checkpoint.BASE_LICENCE: provenance.base_licence,
        "base": _public_name(provenance.base),
        "base_sha256": provenance.base_sha256,
    }
    with atomic_file(path) as tmp_path:
        checkpoint.write_weights(tmp_path, weights, config, step, notes)
    # The weights are found beside the config, wherever both are moved to.
    settings: dict[str, Any] = {"model_filename": path.name, "output_dir": "played", "mode": "free"}
    settings |= play_settings(config.data_config).options(config.data_config)
    if provenance.label:
        settings["global_values"] = [provenance.label]
    write_text(out / FINETUNED_CONFIG, json.dumps({"inference_config": settings}, indent=4) + "\n")


def write_card(
    out: Path, provenance: Provenance, facts: dict[str, str], comparison: dict[str, Any], words: str
) -> None:
    """Write the model card.

    Args:
        out: The output folder.
        provenance: Where the model comes from.
        facts: Rows of the table about the training.
        comparison: As of `comparison.compare`.
        words: The verdict.
    """
    licence = provenance.licence or f"{NO_LICENCE}; state one with --licence before you pass the weights on"
    base, base_licence = _public_name(provenance.base), provenance.base_licence or "see its model card"
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    scores = "\n".join(f"- {line}" for line in describe(comparison))
    text = f"""# Model card: `{weights_path(out, provenance.name).name}`

Made by `finetune.py` from the recordings in `{provenance.recordings}`.

```sh
{play_command(out)}
```

**Licence: {licence}.** The weights began as `{base}`, whose licence applies to them too: {base_licence}.

## Training

| | |
|---|---|
{rows}

## Scores

{words}

Clips generated from silence. Differences are those of the same clips; in brackets their 95 % interval by bootstrap over
the recordings, which is too narrow for so few.

{scores}
"""
    write_text(out / CARD_NAME, text)


def write_page(out: Path, names: list[str], facts: dict[str, str], comparison: dict[str, Any], words: str) -> None:
    """Write the page to listen to each clip: the recording, the base model, the fine-tuned model.

    Args:
        out: The output folder, with both evaluations.
        names: The names of the clips.
        facts: Rows of the table at the top.
        comparison: As of `comparison.compare`.
        words: The verdict.
    """
    base, tuned = (f"{EVALUATION_NAME}/{name}" for name in (BASE_NAME, TUNED_NAME))
    clips = [
        ListeningClip(
            name,
            f"{tuned}/{name}.png" if (out / tuned / f"{name}.png").is_file() else "",
            [
                ("recording", f"{tuned}/{name}_truth.wav"),
                ("base", f"{base}/{name}.wav"),
                ("fine-tuned", f"{tuned}/{name}.wav"),
            ],
            "The picture shows the recording and the fine-tuned model.",
        )
        for name in names
    ]
    scores = dict(line.split(": ", 1) for line in describe(comparison))
    write_listening_page(out / PAGE_NAME, "midi2wave: fine-tuning", clips, {"result": words} | scores | facts)
