"""The comparison of two models: differences clip by clip, and what the verdict says of them."""

import pytest

from midi2wave.finetuning import comparison


def scores(f1, noise, nll=4.0, distance=2.0):
    """Scores of eight clips of four recordings; f1 and noise are those of the first clip and grow from there."""
    clips = [
        {
            "clip": f"clip_{k:03d}_take{k % 4}_1.000s",
            "f1": {"value": f1 + 0.01 * k, "topline": 0.6 + 0.01 * k},
            "chroma": {"value": 0.5, "topline": 1.0},
            "mrstft": {"value": distance, "topline": 0.0},
            "noise_excess_db": {"output": {"percentile_10": [noise + 0.1 * k, noise + 2 + 0.1 * k, None]}},
            "likelihood": {"true": nll, "shuffled": nll + 1},
        }
        for k in range(8)
    ]
    return {"per_clip": clips, "f1_topline": 0.635, "f1_baseline": 0.02}


def test_differences_are_those_of_the_clips():
    compared = comparison.compare(scores(0.3, 10.0, 4.0), scores(0.5, 7.0, 3.5))
    assert (compared["clips"], compared["recordings"]) == (8, 4)
    measures = compared["measures"]
    assert measures["f1"]["difference"] == pytest.approx(0.2) and measures["f1"]["topline"] == 0.635
    assert measures["f1"]["interval"] == pytest.approx([0.2, 0.2])
    assert measures["noise_excess_db"]["base"] == pytest.approx(11.35)  # The mean of two octaves, and of the clips.
    assert measures["noise_excess_db"]["difference"] == pytest.approx(-3)
    assert measures["nll"]["difference"] == pytest.approx(-0.5)
    assert measures["gap"]["difference"] == pytest.approx(0)


def test_noise_that_the_recordings_have_too_is_no_fault():
    compared = comparison.compare(scores(0.3, -12.0), scores(0.3, -6.0, distance=1.5))
    assert comparison.verdict(compared).startswith("It worked: ")
    assert "no more noise than in the recordings" in comparison.verdict(compared)


@pytest.mark.parametrize(
    ("f1", "noise", "distance", "words"),
    [
        (0.5, 9.0, 1.8, "It worked: "),
        (0.26, 10.0, 1.8, "It worked: "),  # 0.04 less are no loss.
        (0.2, 9.0, 1.8, "It worked in part: "),
        (0.5, 12.0, 1.8, "It worked in part: "),
        (0.5, 9.0, 2.0, "Not clear: "),
        (0.2, 9.0, 2.0, "It did not work: "),
        (0.5, 9.0, 2.2, "It did not work: "),
    ],
)
def test_the_verdict(f1, noise, distance, words):
    compared = comparison.compare(scores(0.3, 10.0), scores(f1, noise, distance=distance))
    assert compared["notes"]["reference"] == "base"
    text = comparison.verdict(compared)
    assert text.startswith(words) and "8 held-out clips of 4 recordings" in text
    assert ("less recognisable than those of its base" in text) == (f1 == 0.2)
    assert ("more noise" in text) == (noise > 10)
    assert "but the notes are as recognisable" not in text


def test_the_recordings_limit_what_is_expected_of_notes():
    """The base has an F1 of 0.835, the recordings of 0.635."""
    compared = comparison.compare(scores(0.8, 10.0), scores(0.58, 10.0, distance=1.8))
    assert compared["notes"]["reference"] == "recordings"
    assert compared["notes"]["difference"] == pytest.approx(-0.02)
    assert comparison.verdict(compared).startswith("It worked: ")
    (line,) = (line for line in comparison.describe(compared) if line.startswith("F1"))
    assert "the recordings themselves 0.635, difference from them -0.020 (-0.020 .. -0.020)" in line


def test_clips_that_disagree_do_not_show_whether_notes_are_lost():
    tuned = scores(0.3, 10.0, distance=1.8)
    for clip in tuned["per_clip"]:
        clip["f1"]["value"] += 0.2 if "take0" in clip["clip"] else -0.08
    text = comparison.verdict(comparison.compare(scores(0.3, 10.0), tuned))
    assert text.startswith("It worked in part: ") and "do not show whether the notes" in text


def test_clips_of_one_recording_are_compared_one_by_one():
    results = [scores(f1, 10.0, distance=distance) for f1, distance in ((0.3, 2.0), (0.5, 1.999))]
    for result in results:
        for clip in result["per_clip"]:
            clip["clip"] = clip["clip"].replace("take1", "take0").replace("take2", "take0").replace("take3", "take0")
    results[1]["per_clip"][0]["mrstft"]["value"] = 2.1
    compared = comparison.compare(*results)
    assert compared["recordings"] == 1 and compared["measures"]["f1"]["interval"] == pytest.approx([0.2, 0.2])
    text = comparison.verdict(compared)
    assert text.startswith("Not clear: ") and text.endswith("Intervals of 1 recording are too narrow: listen.")


def test_intervals_of_many_recordings_have_no_caveat():
    results = [scores(f1, 10.0) for f1 in (0.3, 0.5)]
    for result in results:
        for number, clip in enumerate(result["per_clip"]):
            clip["clip"] = f"clip_{number:03d}_take{number}_0.000s"
    compared = comparison.compare(*results)
    assert ("too narrow" in comparison.verdict(compared)) == (compared["recordings"] < comparison.FEW_RECORDINGS)
    assert compared["recordings"] == len(results[0]["per_clip"]) >= comparison.FEW_RECORDINGS


def test_differences_that_round_to_nothing_decide_nothing():
    compared = comparison.compare(scores(0.3, 10.0), scores(0.3, 9.99, distance=1.9999))
    assert comparison.verdict(compared).startswith("Not clear: ") and "less noise" not in comparison.verdict(compared)


def test_a_model_without_notes_did_not_work():
    results = [scores(0.0, 10.0, distance=distance) for distance in (2.0, 1.8)]
    for result in results:
        for clip in result["per_clip"]:
            clip["f1"]["value"] = 0.01
    text = comparison.verdict(comparison.compare(*results))
    assert text.startswith("It did not work: on 8 held-out clips of 4 recordings hardly any note")


def test_a_clip_alone_decides_nothing():
    results = [scores(0.3, 10.0, distance=distance) for distance in (2.0, 1.5)]
    for result in results:
        del result["per_clip"][1:]
    assert comparison.verdict(comparison.compare(*results)).startswith("Not clear: ")


def test_clips_without_notes_and_without_noise():
    results = [scores(0.3, 10.0, distance=distance) for distance in (2.0, 1.8)]
    for result in results:
        for clip in result["per_clip"]:
            clip["f1"] = {"value": None, "topline": None}
            clip["noise_excess_db"]["output"]["percentile_10"] = [None, None]
    compared = comparison.compare(*results)
    assert compared["notes"] is None and "noise_excess_db" not in compared["measures"]
    text = comparison.verdict(compared)
    assert text.startswith("It worked in part: ") and "no notes that could be compared" in text
    assert all("nan" not in line for line in comparison.describe(compared))


def test_the_scores_have_topline_and_baseline():
    (line,) = (
        one for one in comparison.describe(comparison.compare(scores(0.3, 9.0), scores(0.4, 9.0))) if "F1" in one
    )
    assert line.startswith("F1 of the notes (more is better): 0.435, base 0.335, difference +0.100")
    assert line.endswith("the recordings themselves 0.635; against another clip 0.020")


def test_without_a_transcriber_chroma_decides():
    results = [scores(f1, 10.0, distance=distance) for f1, distance in ((0.9, 2.0), (0.1, 1.8))]
    for result in results:
        for clip in result["per_clip"]:
            del clip["f1"]
    compared = comparison.compare(*results)
    assert compared["notes"]["measure"] == "chroma" and compared["notes"]["reference"] == "base"
    assert comparison.verdict(compared).startswith("It worked: ")  # Chroma is equal.
    for clip in results[1]["per_clip"]:
        clip["chroma"]["value"] = 0.3
    assert "less recognisable" in comparison.verdict(comparison.compare(*results))
