"""Measure the partials of a data set's piano, so that the excitation's sinusoids match them.

    python measure_partials.py -d data/train -c config_train.json -o my_config_train.json

For every key with enough notes, the frequency, amplitude, decay and onset phase of its 16 partials are measured in the
sound as the model receives it (after pre-emphasis), and how amplitudes grow with velocity. The config that is written
contains them (data_config.partial_hz etc.). Phases need labels that agree with the sound within a part of a period;
elsewhere they remain 0, and `align_labels.py` can correct the labels first. Keys and partials that could not be
measured are interpolated between their neighbours. With data_config.global_values of one column, such as years, the
recordings of each value are measured separately: they may be of another piano, tuning or set of microphones.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import json

import numpy as np

from midi2wave.conditioning.excitation import n_excitation
from midi2wave.config import load_config
from midi2wave.data.partial_tracking import measure_partials, partial_options
from midi2wave.data.processed_folder import ProcessedFolder
from midi2wave.utils.atomic_files import write_text
from midi2wave.utils.cli import make_parser, path_argument, print_result, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_output


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser(__doc__, config="config_train.json", force="overwrite the file at --out")
    parser.add_argument("-d", "--data", type=path_argument, required=True, help="processed folder to measure")
    parser.add_argument("-o", "--out", type=path_argument, required=True, help="where to write the completed config")
    args = parser.parse_args(argv)
    config = load_config(args.config, ("data_config",), args.overrides)
    if args.out.exists() and not args.force:
        raise InputError(f"{args.out} is there already; choose another name, or use --force, which overwrites it")
    folder, data = ProcessedFolder(args.data), config.data_config
    if not n_excitation(data):
        raise InputError(f"{args.config}: data_config.excitation = false: there is nothing to measure for")
    folder.check_rate(data.audio_hz)
    parts = folder.split_by_label(data.global_values)
    if missing := [value for value in data.global_values if "" not in parts and value not in parts]:
        raise InputError(f"{args.data} has no recording of {missing[0]}; leave it out of data_config.global_values")
    measurements = [measure_partials(part, data.preemphasis) for part in parts.values()]
    options = partial_options(measurements)
    completed = config.as_dict()
    completed["data_config"] |= options
    with lock_output(args.out):
        write_text(args.out, json.dumps(completed, indent=4) + "\n")
    exponent = float(np.mean([each.velocity_exponent for each in measurements]))
    is_measured = np.any([each.is_measured for each in measurements], axis=0)  # [88, 16]
    n_keys, n_partials = int(is_measured.any(axis=1).sum()), int(is_measured.sum())
    result = {"keys_measured": n_keys, "partials_measured": n_partials, "velocity_exponent": exponent}
    summary = f"{n_partials} partials of {n_keys} keys measured, amplitude ~ velocity^{exponent:.2f}"
    print_result(f"{summary}; written: {args.out}", result | {"config": str(args.out)}, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
