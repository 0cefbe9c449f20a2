"""Align the note onsets of a data set with its sound: labels of a real piano are off by milliseconds, note by note.

    python measure_partials.py -d data/train -c config_train.json -o measured.json
    python align_labels.py -d data/train -c measured.json -o data/aligned/train
    python align_labels.py -d data/validation -c measured.json -o data/aligned/validation --like data/aligned/train
    python measure_partials.py -d data/aligned/train -c config_train.json -o partials.json

A hammer excites the partials of a key with the same phases at every note. Where labels and sound agree,
`measure_partials.py` can measure these phases, so that the excitation matches the sound. Here the phases of all
keys and the onsets of all notes are fitted alternately (expectation-maximisation): each onset to all partials, each
phase to all notes of its key. A label's error is modelled as one lag for each recording, plus a part in proportion to
velocity, plus a remainder. Notes that do not fit, and those with too few partials, are corrected by the first two only.
A recording of which hardly any note fits keeps its labels and is named, since its MIDI file may be another recording's.

Phases are those at the microphones: recordings of another room or piano need a global value or a folder of their own. A
key's phases refer to the average time of its labels; pedals move with the recording. With data_config.global_values of
one column, such as years, the recordings of each value are aligned separately. Nothing is written until all onsets are
fitted.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

from argparse import Namespace

import numpy as np

from midi2wave.config import load_config
from midi2wave.data.label_alignment import RecordingAlignment, align_folder
from midi2wave.data.onset_refinement import MIN_FIT_SCORE, fitting_share
from midi2wave.utils.cli import make_parser, path_argument, print_result, run
from midi2wave.utils.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(__doc__, config="measured.json", force="make all recordings anew")
    parser.add_argument("-d", "--data", type=path_argument, required=True, help="processed folder to align")
    parser.add_argument("-o", "--out", type=path_argument, required=True, help="where to write the aligned folder")
    parser.add_argument("--like", type=path_argument, help="aligned folder of the same piano, whose phases are used")
    args = parser.parse_args(argv)
    data = load_config(args.config, ("data_config",), args.overrides).data_config
    if not data.partial_hz:
        raise InputError(f"{args.config} has no data_config.partial_hz; run measure_partials.py first")
    recordings = align_folder(args.data, args.out, data, like=args.like, source=args.config, force=args.force)
    _print_result(recordings, args)
    return 0


def _print_result(recordings: list[RecordingAlignment], args: Namespace) -> None:
    """Print how many notes fit, and how far they moved within their recordings."""
    fit_score = np.concatenate([recording.fit_score for recording in recordings])
    shifts = [recording.onset_shift for recording in recordings if len(recording.onset_shift)]
    moved = np.concatenate([shift - np.median(shift) for shift in shifts])
    spread_ms, share = 1000 * float(np.std(moved[fit_score > MIN_FIT_SCORE])), fitting_share(fit_score)
    n_judged = int(np.isfinite(fit_score).sum())
    result = {"notes": len(fit_score), "judged": n_judged, "fit": share, "spread_ms": spread_ms, "out": str(args.out)}
    summary = (
        f"{len(fit_score)} notes; {100 * share:.0f} % of the {n_judged} that can be judged fit, and moved within "
        f"a recording by {spread_ms:.1f} ms (standard deviation); written: {args.out}"
    )
    print_result(summary, result, as_json=args.as_json)


if __name__ == "__main__":
    run(main)
