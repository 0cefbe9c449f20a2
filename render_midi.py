"""A data set in the MAESTRO layout from performance MIDI alone: a synthesizer or a sampler plays every file.

    pip install --no-deps -r requirements-render.txt
    python render_midi.py -d midi -o data/rendered/maestro -j 2 --soundfont piano.sf2
    python render_midi.py -d midi -o data/grand/maestro -j 2 --instrument salamander

All MIDI files below a folder are read, each as one piano (`midi2wave/midi/reader.py`), and written as they were read:
the labels are exactly what was played. A folder with MAESTRO's metadata keeps its splits; elsewhere the seed chooses
whole pieces to hold out, and files named COMPOSER__PIECE__PLAYER.mid are performances of one piece. Finished files are
not rendered again. The result is subject to the licences of both the MIDI files and the soundfont or the samples.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import argparse
import functools
import time
from pathlib import Path
from typing import Any

from midi2wave.data.maestro import SPLITS
from midi2wave.data.rendering import Rendered, SoundfontJob, metadata_csv, plan_jobs, render_one
from midi2wave.data.resample_manifest import sha256
from midi2wave.data.sampled_instrument import SALAMANDER, SALAMANDER_PATH, SampledInstrument, load_instrument
from midi2wave.data.synthesizers import AUDIO_HZ, RENDERERS, Instrument, find_instrument
from midi2wave.utils.atomic_files import remove_partial_files, write_text
from midi2wave.utils.cli import Failure, count_of, log, make_parser, path_argument, progress, report_and_exit_code, run
from midi2wave.utils.cores import usable_cores
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_own_folder
from midi2wave.utils.output_folder import OutputFolder, Product
from midi2wave.utils.parallel import parallel_map

METADATA_NAME = "maestro-v2.0.0.csv"
RECORD_NAME = "render.json"
FORCE_EFFECT = "renders the files of this call again and removes nothing else"

DEFAULT_PROGRAM = 0
# The limits of the options that are numbers.
LIMITS = {"program": (0, 127), "gain": (0.01, 10), "validation": (0, 0.5), "test": (0, 0.5)}


def main(argv: list[str] | None = None) -> int:
    """Render a folder; returns the exit code. InputError where nothing can be done."""
    args = _arguments(argv)
    instrument = _find_instrument(args)
    jobs, failures = plan_jobs(args.dir, args.seed, {"validation": args.validation, "test": args.test})
    started = time.monotonic()
    with lock_own_folder(args.out, RECORD_NAME):
        jobs, refused = _begin(args, instrument, jobs)
        usable, rendered, failed = _render(args, instrument, jobs)
    failures += refused + failed
    result = _result(args.out, usable, rendered, time.monotonic() - started)
    return report_and_exit_code(_summary(result), result, failures, len(usable), as_json=args.as_json)


def _find_instrument(args: argparse.Namespace) -> Instrument | SampledInstrument:
    """The SFZ instrument, or the synthesizer with its soundfont. Raises InputError."""
    if args.instrument is not None:
        names = ("renderer", "soundfont", "program", "effects")
        if contradicting := [f"--{name}" for name in names if getattr(args, name) not in (None, False)]:
            raise InputError(
                f"--instrument needs no {contradicting[0]}: it is played by a sampler; leave out one of them"
            )
        return load_instrument(SALAMANDER_PATH if str(args.instrument) == SALAMANDER else args.instrument, args.gain)
    return find_instrument(
        args.renderer or RENDERERS[0], args.soundfont, args.program or DEFAULT_PROGRAM, args.gain, args.effects
    )


def _begin(
    args: argparse.Namespace, instrument: Instrument | SampledInstrument, jobs: list[SoundfontJob]
) -> tuple[list[SoundfontJob], list[Failure]]:
    """Enter the pieces into the folder's record; returns those that may be rendered, and the others as failures."""
    output = OutputFolder(
        args.out,
        RECORD_NAME,
        _record(args, instrument),
        force=args.force,
        force_effect=FORCE_EFFECT,
        shared=(METADATA_NAME,),
        former=_former_pieces,
    )
    refused = output.begin({job.stem: Product((f"{job.stem}.flac", f"{job.stem}.midi")) for job in jobs})
    for folder in {(args.out / job.stem).parent for job in jobs}:
        remove_partial_files(folder)
    failures = [Failure(str(job.source), refused[job.stem]) for job in jobs if job.stem in refused]
    return [job for job in jobs if job.stem not in refused], failures


def _former_pieces(folder: Path, _record: dict[str, Any]) -> dict[str, Product]:
    """The pieces in a folder of an earlier version, whose record does not list them."""
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.glob("*/*.flac"))]
    return {name: Product((f"{name}.flac", f"{name}.midi")) for name in names}


def _render(
    args: argparse.Namespace, instrument: Instrument | SampledInstrument, jobs: list[SoundfontJob]
) -> tuple[list[SoundfontJob], dict[str, Rendered], list[Failure]]:
    """Render the pieces and write the metadata; returns the pieces that are usable, their levels, and failures."""
    renderer = "sampler"
    if isinstance(instrument, Instrument):
        renderer = instrument.renderer
        log(f"{renderer} plays program {instrument.program} of {instrument.soundfont}")
    else:
        log(f"the sampler plays {instrument.path}, {count_of(len(instrument.regions), 'region')}")
    rendered: dict[str, Rendered] = {}
    failures: list[Failure] = []
    function = functools.partial(render_one, folder=args.out, instrument=instrument)
    # FluidSynth is a process of its own already; the others need one for each job.
    backend = "threading" if renderer == "fluidsynth" else "loky"
    outcomes = parallel_map(function, jobs, n_jobs=args.jobs, backend=backend)
    for job, outcome in progress(outcomes, len(jobs), "piece"):
        if isinstance(outcome, Rendered):
            rendered[job.stem] = outcome
        else:
            failures.append(Failure(str(job.source), outcome))
    usable = [job for job in jobs if job.stem in rendered]
    if usable:
        write_text(args.out / METADATA_NAME, metadata_csv(usable, rendered))
    return usable, rendered, failures


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, force="render the files of this call again")
    add = parser.add_argument
    add("-d", "--dir", type=path_argument, required=True, help="folder with MIDI files, or a MAESTRO folder")
    add("-o", "--out", type=path_argument, required=True, help="where the data set goes")
    add("--renderer", choices=RENDERERS, help=f"what plays the soundfont (default {RENDERERS[0]})")
    add(
        "--instrument",
        type=path_argument,
        help=f"{SALAMANDER}, or an .sfz file: plays samples in place of a soundfont",
    )
    add(
        "--soundfont",
        type=path_argument,
        help="an .sf2 or .sf3 file (default: a usual one of the system, or pretty_midi's)",
    )
    add("--program", type=int, help="General MIDI program (default 0: acoustic grand piano)")
    add("--gain", type=float, default=0.7, help="the same for all notes (default 0.7)")
    add("--effects", action="store_true", help="with FluidSynth's reverb and chorus")
    add("--validation", type=float, default=0.06, help="share of the music to validate on (default 0.06)")
    add("--test", type=float, default=0.1, help="share of the music to test on (default 0.1)")
    add("--seed", type=int, default=0, help="which pieces are held out (default 0)")
    add("-j", "--jobs", type=int, default=1, help="files at once, at most one per core (default 1)")
    args = parser.parse_args(argv)
    for name, (low, high) in LIMITS.items():
        if getattr(args, name) is not None and not low <= getattr(args, name) <= high:
            raise InputError(f"--{name} is {getattr(args, name):g}, expected {low:g} to {high:g}")
    if args.seed < 0 or args.jobs < 1:
        raise InputError(f"--seed is {args.seed} and --jobs {args.jobs}, expected 0 or more and 1 or more")
    if args.dir.resolve() in (args.out.resolve(), *args.out.resolve().parents):
        raise InputError(f"--out lies in the folder of the MIDI files, {args.dir}; choose another one")
    args.jobs = min(args.jobs, usable_cores())
    return args


def _record(args: argparse.Namespace, instrument: Instrument | SampledInstrument) -> dict[str, Any]:
    """All that the data set depends on, besides the MIDI files."""
    record = {name: getattr(args, name) for name in ("gain", "validation", "test", "seed")}
    if isinstance(instrument, SampledInstrument):
        record["instrument"] = instrument.path.name
        record["instrument_sha256"] = sha256(instrument.path)
        record["samples_sha256"] = instrument.samples_sha256
        return record | {"audio_hz": AUDIO_HZ}
    record |= {"program": instrument.program, "effects": args.effects}
    # FluidSynth is not named: earlier versions, whose folders remain valid, had no other renderer.
    if instrument.renderer != "fluidsynth":
        record["renderer"] = instrument.renderer
    record["soundfont"] = instrument.soundfont.name
    record["soundfont_sha256"] = sha256(instrument.soundfont)
    return record | {"audio_hz": AUDIO_HZ}


def _result(
    folder: Path, jobs: list[SoundfontJob], rendered: dict[str, Rendered], elapsed_seconds: float
) -> dict[str, Any]:
    hours: dict[str, float] = dict.fromkeys(SPLITS, 0.0)
    for job in jobs:
        hours[job.split] += rendered[job.stem].seconds / 3600
    return {
        "out": str(folder),
        "files": len(jobs),
        "hours": hours,
        "peak_db": max((piece.peak_db for piece in rendered.values()), default=None),
        "level_db": {stem: round(piece.level_db, 2) for stem, piece in sorted(rendered.items())},
        "elapsed_seconds": elapsed_seconds,
    }


def _summary(result: dict[str, Any]) -> str:
    if not result["files"]:
        return "nothing was rendered"
    hours = ", ".join(f"{split} {h:.2f} h" for split, h in result["hours"].items())
    levels = result["level_db"].values()
    return (
        f"{result['out']}: {count_of(result['files'], 'file')} ({hours}) in {result['elapsed_seconds']:.0f} s; "
        f"RMS {min(levels):.1f} to {max(levels):.1f} dBFS, highest peak {result['peak_db']:.1f} dBFS"
    )


if __name__ == "__main__":
    run(main)
