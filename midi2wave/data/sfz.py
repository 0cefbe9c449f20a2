"""Reading of SFZ files: which sample sounds for which key and velocity (https://sfzformat.com).

An SFZ file is text. Headers in angle brackets open sections, and each `<region>` inherits the opcodes (OPCODE=VALUE)
of the sections `<global>`, `<master>` and `<group>` before it. What this reader knows is in `SUPPORTED_OPCODES`; of
regions that alternate or that depend on controllers, those remain that sound first, with all controllers at rest.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from midi2wave.midi.keyboard import MAX_PITCH, MIN_PITCH
from midi2wave.utils.cli import log
from midi2wave.utils.errors import InputError

# A section replaces the opcodes of these sections, which it ends.
ENDED_BY = {
    "global": ("global", "master", "group"),
    "master": ("master", "group"),
    "group": ("group",),
}
MAX_FILE_BYTES = 2**24
# Characters of an instrument with all #include files, each as often as it is included, and all #define values.
MAX_CHARACTERS = 2**24
MAX_INCLUDE_DEPTH = 8
MAX_KEY = 127
MIDDLE_C = 60  # The default of pitch_keycenter.
# What is far beyond any instrument cannot be computed with.
MAX_KEY_NUMBER = 255
MAX_NUMBER = 1e6
MAX_VOLUME_DB = 200.0
MAX_CENTS = 12000.0
NOTE_NUMBERS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
ATTACK_TRIGGERS = ("attack", "first")
RELEASE_TRIGGERS = ("release", "release_key")
SUPPORTED_OPCODES = re.compile(
    r"sample|default_path|note_offset|octave_offset|key|lokey|hikey|lovel|hivel|pitch_keycenter|pitch_keytrack|tune|pitch"
    r"|transpose|volume|amp_veltrack|ampeg_release|trigger|rt_decay|seq_position|lorand|sw_last|sw_default"
)
# What changes nothing in a piece that is played with all controllers at rest, or says what is done anyway.
HARMLESS_OPCODES = re.compile(
    r"seq_length|hirand|(on_|start_)?(lo|hi)cc\d+|sw_(lokey|hikey|label|down|up|previous)|(group|master|region|global)_label"
    r"|label_cc\d+|set_cc\d+|(lo|hi)(chan|bend|prog|chanaft|polyaft)|bend_(up|down|step)|offset|polyphony|note_polyphony"
    r"|image|rt_dead"
)
# Not within a word: the name of a key or a file may hold "#".
DIRECTIVE = re.compile(r'(?<![^\s>])#(?:define\s+(\$\w+)\s+(\S+)|include\s+"([^"]+)")')
_Token = tuple[str, str, str, str]  # FILE:LINE, "header" or "opcode", name, value


@dataclass(frozen=True)
class Region:
    """A sample and when it sounds.

    Attributes:
        sample: The audio file.
        line: Where the SFZ file names it, FILE:LINE, for messages.
        keys: Lowest and highest MIDI pitch.
        velocities: Lowest and highest MIDI velocity.
        keycenter: The MIDI pitch at which the sample plays unchanged.
        keytrack: Cents a key.
        tune_cents: Added to the pitch.
        volume_db: Added to the level.
        veltrack: How much the velocity changes the level, -1..1 (`amp_veltrack` / 100).
        release_seconds: How long the sound takes to end after the damper has fallen (`ampeg_release`).
        on_release: Whether it sounds when the damper falls instead of when the key is struck.
        rt_decay_db: By how much a release sample is quieter for every second that the note lasted.
    """

    sample: Path
    line: str
    keys: tuple[int, int]
    velocities: tuple[int, int]
    keycenter: int
    keytrack: float
    tune_cents: float
    volume_db: float
    veltrack: float
    release_seconds: float
    on_release: bool
    rt_decay_db: float

    def cents(self, pitch: int) -> float:
        """By how much a MIDI pitch transposes the sample, in cents."""
        return self.keytrack * (pitch - self.keycenter) + self.tune_cents


@dataclass
class _Section:
    opcodes: dict[str, str]
    line: str


@dataclass
class _Reading:
    """What the files of one instrument share while they are read: variables, and the number of characters so far."""

    variables: dict[str, str] = field(default_factory=dict)
    n_characters: int = 0

    def count(self, place: str, n_characters: int) -> None:
        """Add characters. Raises InputError where the instrument has too many: an #include can multiply its size."""
        self.n_characters += n_characters
        if self.n_characters > MAX_CHARACTERS:
            raise InputError(
                f"{place}: with its #include and #define lines the instrument has more than {MAX_CHARACTERS} "
                "characters; remove those that repeat each other"
            )


def read_sfz(path: Path) -> list[Region]:
    """The regions of an SFZ file that a piano needs.

    Args:
        path: The file.

    Raises:
        InputError: It is no SFZ file, a value is no number, or no region has a sample.
        OSError: It cannot be read.
    """
    sections = _region_sections(path)
    unsupported: set[str] = set()
    regions = []
    for section in sections:
        unsupported |= {name for name in section.opcodes if not _is_supported(name)}
        if _sounds_at_rest(section) and (region := _region(path, section)) is not None:
            regions.append(region)
    if not any(not region.on_release for region in regions):
        raise InputError(f"{path} has no <region> with a sample that a key starts; is it an SFZ instrument?")
    if unsupported:
        log(f"{path}: played without what is not supported: {', '.join(sorted(unsupported))}")
    return regions


def _is_supported(opcode: str) -> bool:
    return any(pattern.fullmatch(opcode) for pattern in (SUPPORTED_OPCODES, HARMLESS_OPCODES))


def _region_sections(path: Path) -> list[_Section]:
    """Every region with the opcodes that it inherits."""
    inherited: dict[str, dict[str, str]] = {}
    regions: list[_Section] = []
    opcodes: dict[str, str] = {}
    for line, kind, name, value in _tokens(path, _Reading(), ()):
        if kind == "header":
            opcodes = {}
            if name == "region":
                merged: dict[str, str] = {}
                for header in ("control", "global", "master", "group"):
                    merged |= inherited.get(header, {})
                opcodes = merged
                regions.append(_Section(opcodes, line))
            else:
                for ended in ENDED_BY.get(name, ()):
                    inherited.pop(ended, None)
                # Opcodes of several <control> sections add up.
                opcodes = inherited.setdefault(name, {})
        else:
            opcodes[name] = value
    return regions


def _tokens(path: Path, reading: _Reading, including: tuple[Path, ...]) -> list[_Token]:
    """Headers and opcodes of a file and of those that it includes, in order; `including` has the files above it."""
    tokens: list[_Token] = []
    including = (*including, path.resolve())
    for number, raw_line in enumerate(_read_text(path, reading).splitlines(), 1):
        line, end = raw_line.split("//")[0].strip(), 0
        place = f"{path.name}:{number}"
        # A directive may stand anywhere in a line, and several in one.
        for directive in DIRECTIVE.finditer(line):
            tokens += _line_tokens(place, _expand(place, line[end : directive.start()], reading))
            end = directive.end()
            variable, value, include = directive.groups()
            if variable:
                reading.variables[variable] = value
            else:
                included = path.parent / include.replace("\\", "/")
                _check_include(f"{path}:{number}", included, including)
                tokens += _tokens(included, reading, including)
        tokens += _line_tokens(place, _expand(place, line[end:], reading))
    return tokens


def _read_text(path: Path, reading: _Reading) -> str:
    """The text of a file without /* comments */."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes, expected an SFZ file of at most {MAX_FILE_BYTES}")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    reading.count(str(path), len(text))
    if "\0" in text:
        raise InputError(f"{path} is not text, expected an SFZ instrument (.sfz)")
    # A comment leaves its line ends, so that the numbers of the lines stay.
    return re.sub(r"/\*.*?\*/", lambda comment: "\n" * comment[0].count("\n"), text, flags=re.DOTALL)


def _check_include(place: str, included: Path, including: tuple[Path, ...]) -> None:
    """Raise InputError unless a file can be included by the last of those that are being read."""
    if not included.is_file():
        raise InputError(f"{place} includes {included}, which is not there; get the instrument again")
    if included.resolve() in including:
        raise InputError(f"{place} includes {included}, which includes this file again; remove this line")
    if len(including) > MAX_INCLUDE_DEPTH:
        raise InputError(
            f"{place} includes {included}: {len(including)} files include one another, expected at most "
            f"{MAX_INCLUDE_DEPTH}; put their text into fewer files"
        )


def _expand(place: str, line: str, reading: _Reading) -> str:
    """A line with the values of its #define variables; longer names first, since $KEYS begins with $KEY."""
    if "$" not in line:
        return line
    for name in sorted(reading.variables, key=len, reverse=True):
        value = reading.variables[name]
        # Before the line grows: values may hold names, so that each variable can double it.
        reading.count(place, line.count(name) * len(value))
        line = line.replace(name, value)
    return line


def _line_tokens(place: str, line: str) -> list[_Token]:
    # A value, such as the name of a file, may hold spaces: it ends before the next opcode or header.
    pattern = r"<(\w+)>|([\w$]+)=(.*?)(?=\s+[\w$]+=|\s*<\w+>|\s*$)"
    return [
        (place, "header", match[1], "") if match[1] else (place, "opcode", match[2], match[3])
        for match in re.finditer(pattern, line)
    ]


def _sounds_at_rest(section: _Section) -> bool:
    """Whether a region sounds the first time that a key is struck with all controllers at rest."""
    opcodes = section.opcodes
    if _number(section, "seq_position", 1) > 1 or _number(section, "lorand", 0) > 0:
        return False
    if "sw_last" in opcodes and opcodes["sw_last"] != opcodes.get("sw_default", opcodes["sw_last"]):
        return False
    if any(re.fullmatch(r"(on|start)_(lo|hi)cc\d+", name) for name in opcodes):
        return False
    return not any(re.fullmatch(r"locc\d+", name) and _number(section, name, 0) > 0 for name in opcodes)


def _region(path: Path, section: _Section) -> Region | None:
    """A region as an object; None where it has no sample, or a trigger that a piano piece never meets."""
    opcodes = section.opcodes
    trigger = opcodes.get("trigger", "attack")
    sample = opcodes.get("sample", "")
    if trigger not in (*ATTACK_TRIGGERS, *RELEASE_TRIGGERS) or not sample or sample.startswith("*"):
        return None
    shift = int(_number(section, "note_offset", 0) + 12 * _number(section, "octave_offset", 0))
    # `key` stands for all three.
    low = _key(section, "lokey", _key(section, "key", 0))
    high = _key(section, "hikey", _key(section, "key", MAX_KEY))
    keycenter = _key(section, "pitch_keycenter", _key(section, "key", MIDDLE_C))
    tune = _number(section, "tune", _number(section, "pitch", 0)) + 100 * _number(section, "transpose", 0)
    name = (opcodes.get("default_path", "") + sample).replace("\\", "/")
    if Path(name).is_absolute():
        raise InputError(f"{section.line}: sample={name}, expected a path relative to the SFZ file; correct it")
    region = Region(
        sample=path.parent / name,
        line=section.line,
        keys=(low + shift, high + shift),
        velocities=(int(_number(section, "lovel", 0)), int(_number(section, "hivel", MAX_KEY))),
        keycenter=keycenter + shift,
        keytrack=_number(section, "pitch_keytrack", 100),
        tune_cents=tune,
        volume_db=_number(section, "volume", 0, MAX_VOLUME_DB),
        veltrack=min(max(_number(section, "amp_veltrack", 100) / 100, -1), 1),
        release_seconds=_number(section, "ampeg_release", 0),
        on_release=trigger in RELEASE_TRIGGERS,
        rt_decay_db=_number(section, "rt_decay", 0),
    )
    keys = range(max(region.keys[0], MIN_PITCH), min(region.keys[1], MAX_PITCH) + 1)
    if cents := [region.cents(key) for key in keys if abs(region.cents(key)) > MAX_CENTS]:
        reason = f"transposes its sample by {cents[0]:g} cents, expected at most {MAX_CENTS:g}"
        raise InputError(f"{section.line}: {reason}; correct its pitch_keycenter or tuning")
    return region


def _number(section: _Section, opcode: str, default: float, limit: float = MAX_NUMBER) -> float:
    """The value of an opcode; its default where it is missing. Raises InputError for no number, or a large one."""
    text = section.opcodes.get(opcode)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= limit:  # Nor NaN.
        raise InputError(f"{section.line}: {opcode}={text}, expected a number up to {limit:g}; correct it")
    return value


def _key(section: _Section, opcode: str, default: int) -> int:
    """A key as a number or a name (c4 is 60)."""
    text = section.opcodes.get(opcode, str(default))
    if match := re.fullmatch(r"([a-gA-G])([#b]?)(-?\d)", text):
        return NOTE_NUMBERS[match[1].lower()] + {"#": 1, "b": -1, "": 0}[match[2]] + 12 * (int(match[3]) + 1)
    try:
        key = int(text)
        if abs(key) > MAX_KEY_NUMBER:
            raise ValueError
        return key
    except ValueError:
        raise InputError(f"{section.line}: {opcode}={text}, expected a key such as 60 or c4; correct it") from None
