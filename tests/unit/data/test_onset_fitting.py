"""Fit of a key's onsets: what cannot be judged, and that blocks of notes make no difference."""

import numpy as np
import pytest

from midi2wave.data import onset_fitting, onset_refinement
from midi2wave.data.onset_fitting import MIN_PARTIALS


@pytest.mark.parametrize(("n", "all_audible"), [(1, True), (3, True), (8, True), (16, True), (16, False)])
def test_notes_with_few_partials_have_no_fit_score(n, all_audible):
    """Random phases fit notes with few partials, too; so they do where only a few partials are audible."""
    rng = np.random.default_rng(0)
    amplitude_match = np.where(all_audible | (np.arange(n) < 2), 1.0, 0.01) * np.ones((300, n))
    unit = np.exp(2j * np.pi * rng.random((300, n)))
    notes = onset_fitting.KeyPhases(unit, amplitude_match, np.zeros((300, n)), 261.6 * np.arange(1, n + 1))
    phasor = 0.9 * np.exp(2j * np.pi * rng.random(n))
    fit = onset_fitting.fit_shifts(notes, phasor)[1]
    fit_score = notes.fit_score(phasor, fit)
    assert ((fit > onset_refinement.MIN_RELIABLE_FIT).mean() > 0.2) == (n < MIN_PARTIALS or not all_audible)
    assert (np.isnan(fit_score) == (n < MIN_PARTIALS)).all()
    assert onset_refinement.fitting_share(fit_score) < onset_refinement.MIN_FITTING_SHARE


def test_blocks_of_notes_give_the_same_fit(monkeypatch):
    rng = np.random.default_rng(0)
    noise, unit = rng.random((50, 9)), np.exp(2j * np.pi * rng.random((50, 9)))
    notes = onset_fitting.KeyPhases(unit, 1 - noise, noise, 110.0 * np.arange(1, 10))
    phasor = np.exp(1j * np.arange(9))
    whole = onset_fitting.fit_shifts(notes, phasor)
    monkeypatch.setattr(onset_fitting, "NOTES_PER_BLOCK", 7)
    np.testing.assert_allclose(onset_fitting.fit_shifts(notes, phasor), whole, atol=1e-9)
