"""Report of evaluate.py: a table of all numbers, made from the values of scores.json, also later from the file."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from midi2wave.utils.cli import count_of

LIKELIHOODS = (
    ("nll_true", "NLL, own MIDI"),
    ("nll_shuffled", "NLL, another clip's MIDI"),
    ("nll_null", "NLL, no MIDI"),
    ("nll_linear_prediction", "NLL, linear prediction"),
    ("gap", "gap: another's - own"),
    ("gap_null", "gap: none - own"),
    ("gap_onsets", "gap, 50 ms after onsets"),
    ("gap_null_onsets", "gap to none, 50 ms after onsets"),
)
SCORES = (
    ("f1", "F1 of the transcribed notes"),
    ("f1_offsets", "F1, ends of notes too"),
    ("transkun_f1", "F1, second transcriber"),
    ("transkun_f1_offsets", "F1, releases of the keys too"),
    ("transkun_velocity", "velocity correlation"),
    ("transkun_pedal_f1", "F1 of the pedal's time down"),
    ("chroma", "chroma similarity"),
    ("onsets", "onset agreement"),
    ("mrstft", "STFT distance (less is better)"),
)


def table(result: dict[str, Any]) -> str:
    """All numbers of a result as text, one measure per line.

    Args:
        result: The values of scores.json.
    """
    lines = [f"{clips_and_recordings(result)}, {result['mode']}, step {result['step']} of {result['model']}", ""]
    lines.append(f"{'nats per sample':34}{'mean':>9}   95 % interval")
    for key, name in LIKELIHOODS:
        if key not in result:  # In files of earlier versions.
            continue
        lines.append(f"{name:34}{format_number(result[key], 4):>9}   {_interval(result[f'{key}_interval'], 4)}")
    lines += ["", f"{'generated audio':34}{'mean':>9}   {'95 % interval':20}{'topline':>9}{'baseline':>9}"]
    for key, name in SCORES:
        if not is_measured(result, key):
            continue
        row = f"{name:34}{format_number(result[key]):>9}   {_interval(result[f'{key}_interval']):20}"
        lines.append(f"{row}{format_number(result[f'{key}_topline']):>9}{format_number(result[f'{key}_baseline']):>9}")
    lines.append(f"(topline: the recordings themselves; baseline: against another clip; {_transcribers(result)})")
    lines += [f"({_interval_remark(result)})", "", *_noise_lines(result.get("noise_excess_db"))]
    if frechet := result.get("frechet_distance"):
        halves = f"between halves of the recordings {format_number(frechet['recording_halves'])}"
        lines += [f"{'Fréchet distance of features':34}{format_number(frechet['distance']):>9}   {halves}", ""]
    ratios = result["conditioning_ratios"]
    spread = f"{min(ratios):.3f} .. {max(ratios):.3f} over {len(ratios)} layers"
    lines.append(f"{'conditioning / past in the gates':34}{format_number(float(np.median(ratios))):>9}   {spread}")
    if result.get("n_codes"):
        usage = f"{result['code_usage']:.0%} of {result['n_codes']} codes used"
        lines.append(f"{'perplexity of the codes':34}{format_number(result['code_perplexity'], 1):>9}   {usage}")
    return "\n".join([*lines, *_counterfactual_lines(result["counterfactuals"]), *_drift_lines(result["drift"])])


def clips_and_recordings(result: dict[str, Any]) -> str:
    """How many clips of how many recordings; files of earlier versions do not contain the latter."""
    n_recordings = result.get("recordings")
    return count_of(result["clips"], "clip") + (f" of {count_of(n_recordings, 'recording')}" if n_recordings else "")


def is_measured(result: dict[str, Any], key: str) -> bool:
    """Whether a result has a score: those of a transcriber only if it is installed, and in files of this version."""
    if key.startswith("transkun"):
        return result.get("second_transcriber") is not None
    return result["transcriber"] is not None if key.startswith("f1") else True


def _transcribers(result: dict[str, Any]) -> str:
    first, second = result["transcriber"], result.get("second_transcriber")
    if not first:
        return "no transcriber is installed: no F1" + (f", except by the second one, {second}" if second else "")
    return f"transcribed by {first}" + (f"; second transcriber: {second}" if second else "")


def _noise_lines(octaves: list[dict[str, Any]] | None) -> Iterator[str]:
    """The noise of each octave: the quietest tenth of the bins, and the median."""
    if not octaves:
        return
    head = f"{'mean':>9}   {'95 % interval':20}{'rounding':>9}"
    for key, name in (("percentile_10", "noise excess, dB, 10th percentile"), ("median", "noise excess, dB, median")):
        yield f"{name:34}{head}"
        for octave in octaves:
            label = f"{octave['low_hz']} .. {octave['high_hz']} Hz"
            row = f"{label:34}{format_number(octave[key], 1):>9}   {_interval(octave[f'{key}_interval'], 1):20}"
            yield f"{row}{format_number(octave[f'{key}_quantized'], 1):>9}"
        yield ""
    yield "(above the recording; rounding: the recording as the model's samples represent it)"
    yield ""


def _interval_remark(result: dict[str, Any]) -> str:
    """What the intervals are intervals over, or why there are none."""
    n_recordings = result.get("recordings")
    if n_recordings is None:
        return "intervals: bootstrap over the clips, as if each were of a recording of its own"
    if n_recordings == 1:
        return "no intervals: all clips are of one recording, and say nothing about the differences between recordings"
    return f"intervals: bootstrap over the {n_recordings} recordings, each with all its clips"


def _counterfactual_lines(effects: dict[str, Any] | None) -> Iterator[str]:
    if effects is None:
        return
    yield ""
    yield f"{'one thing changed, dB':34}{'mean':>9}   {'worst':>8}   right direction"
    names = {
        "semitone": "note moved by a semitone",
        "velocity": "velocity 110 against 30",
        "pedal": "after release: pedal",
    }
    for key, name in names.items():
        effect = effects[key]
        yield f"{name:34}{effect['db']:>9.1f}   {effect['lowest_db']:>8.1f}   {effect['right']:.0%}"
    yield f"{'elsewhere, when a note is moved':34}{effects['elsewhere_db']:>9.1f}"
    if effects["decays"]:
        yield ""
        yield f"{'global value changed, after release':36}{'decay, dB/s':>12}   {'level, dB':>9}"
    for value, decay in effects["decays"].items():
        yield f"{value:36}{format_number(decay['db_per_second'], 1):>12}   {format_number(decay['level_db'], 1):>9}"


def _drift_lines(drifts: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, one in drifts.items():
        silent = one["silent_after_seconds"]
        ends = "not silent" if silent is None else f"silent {silent:g} s"
        yield ""
        yield f"long clip {name}"
        level = f"level {one['level_difference_db']:+.1f} dB (worst 10 s {one['worst_window_db']:+.1f} dB)"
        yield f"  {level}; {ends} after the last note, {one['tail_db']:.0f} dBFS in the sixth second"
        if one["f1_first"] is not None:
            f1 = f"{format_number(one['f1_first'])}, {format_number(one['f1_last'])}"
            toplines = f"{format_number(one['f1_first_topline'])}, {format_number(one['f1_last_topline'])}"
            yield f"  F1 of the first and last 10 s: {f1} (toplines {toplines})"


def format_number(value: float | None, digits: int = 3) -> str:
    """A number of the table; "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(interval: list[float | None], digits: int = 3) -> str:
    low, high = interval
    return "-" if low is None else f"{low:.{digits}f} .. {high:.{digits}f}"
