"""Messages of a training."""

from midi2wave.training.messages import ignored_conditioning_warning
from midi2wave.training.validation import lacks_conditioning_gap


def test_ignored_conditioning_is_reported_in_plain_words():
    """At the second validation in a row, the fourth, ...; a significant gap in between starts the count anew."""
    ignoring, using = ({"validation_gap": gap, "validation_gap_error": 0.01} for gap in (0.015, 0.03))
    count, warnings = 0, []
    for metrics in [ignoring] * 5 + [using] + [ignoring] * 2:
        count = count + 1 if lacks_conditioning_gap(metrics) else 0
        warnings.append(ignored_conditioning_warning(metrics, count))
    assert [bool(text) for text in warnings] == [False, True, False, True, False, False, False, True]
    assert "ignores its MIDI" in warnings[1] and "0.0150 +- 0.0100" in warnings[1] and "4 validations" in warnings[3]
    assert "\n" not in warnings[1]
