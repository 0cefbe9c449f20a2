"""A list for `python -m benchmarks.listen` with an untrained model, a tiny sampled piano and a short piece."""

from html.parser import HTMLParser
from pathlib import Path

from midi2wave import checkpoint
from tests.helpers.pipeline import write_midi
from tests.helpers.sfz_instrument import write_instrument
from tests.helpers.synthesis_models import build, make_config

AUDIO_HZ = 8000
SECONDS = 1.0
NOTES = [(0.2, 0.6, 60, 80), (0.5, 1.6, 64, 100), (1.2, 1.5, 62, 70)]
LICENSED = 'licence = "CC BY 3.0"\nlicence_url = "https://creativecommons.org/licenses/by/3.0/"'
# Without the names of the files.
LIST = """
[models.tiny]
file = "{model}"
title = "an <untrained> model"
{licensed}
attribution = "nobody & everybody"
temperature = 0.9
guidance = 1
training_data = "nothing"
training_pieces = ["scale"]

[pianos.sines]
file = "{piano}"
renderer = "sampler"
title = "two sines"
{licensed}
attribution = "a sine by Fourier"

[pieces.song]
file = "{song}"
title = "A song"
licence = "ours"

[pieces.scale]
file = "{song}"
title = "A scale"
licence = "ours"

[clips.pair]
piece = "song"
model = "tiny"
piano = "sines"
seconds = 1

[clips.alone]
piece = "scale"
model = "tiny"
seconds = 1
seed = 3
"""


def write_list(folder: Path, **data: bool) -> Path:
    """Write the list and the files that it names into a folder; returns the list.

    Args:
        folder: The folder.
        data: Options of the model's data_config.
    """
    config = make_config(audio_hz=AUDIO_HZ, **data)
    model = checkpoint.save(folder / "run", 1, build(config).state_dict(), {}, config, 1) / checkpoint.WEIGHTS_NAME
    song, piano = write_midi(folder / "song.mid", NOTES), write_instrument(folder / "instrument")
    path = folder / "list.toml"
    names = {"model": model.as_posix(), "piano": piano.as_posix(), "song": song.as_posix()}
    path.write_text(LIST.format(**names, licensed=LICENSED), encoding="utf-8")
    return path


class ListeningPage(HTMLParser):
    """The elements and texts of a page.

    Attributes:
        elements: Tag and attributes of every element, in order.
        sounds: For each group of a player, a picture and a licence: its elements and its text.
        text: All text but that of scripts and styles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sounds: list[tuple[list[tuple[str, dict[str, str | None]]], list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self._depth_of_sound = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)
        if tag == "div" and attributes.get("class") == "sound":
            self.sounds.append(([], []))
            self._depth_of_sound = len(self._open)
        elif self._depth_of_sound:
            self.sounds[-1][0].append((tag, attributes))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # Well-formed.
        if len(self._open) < self._depth_of_sound:
            self._depth_of_sound = 0

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.text += data
        if self._depth_of_sound:
            self.sounds[-1][1].append(data)

    def values(self, tag: str, attribute: str) -> list[str | None]:
        """An attribute of all elements of a tag."""
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]
