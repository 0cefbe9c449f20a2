"""Maximum-likelihood fit of the onsets of one key's notes, by the phases of its partials.

A hammer excites the partials of a key with the same phases at every note. The onset of a note is therefore the time at
which the phases of all its partials match those of the key. Phase errors follow a von Mises distribution whose
concentration is that of the key's mean phasor (Fisher, Statistical Analysis of Circular Data, 1993, section 4.5), and
errors of the labels a normal distribution. Phasors and onsets are fitted alternately (expectation-maximisation).
"""

from dataclasses import dataclass, replace

import numpy as np

N_INITIAL_NOTES = 40  # Notes of a key from which its first phasor is made.
LABEL_ERROR_SECONDS = 0.003  # Standard deviation of the labels' errors.
SEARCH_SECONDS = 0.012  # Largest shift of an onset.
GRID_SECONDS = 2.5e-5
N_CANDIDATES = 16  # Local maxima of a note's likelihood, about a period apart, from which the best is selected.
N_NEWTON_ITERATIONS = 4
N_EM_ITERATIONS = 4
MIN_PARTIALS = 5  # With fewer partials there mostly is an onset that matches random phases, too.
MIN_FIT = 0.5  # Mean cosine of a note's phases relative to its key's, from which on its onset is moved.
NOTES_PER_BLOCK = 2000  # All notes of one key in 200 hours, on the whole grid, would take gigabytes.
# The likelihood's exponent is scaled by this factor, since the errors of partials are not independent.
INDEPENDENCE = 0.4


@dataclass(frozen=True)
class KeyPhases:
    """Measured phases of the notes of one key, of its P audible partials.

    Attributes:
        phasors: Unit phasors at the expected onsets, complex [n, P].
        amplitude_match: 1 where a partial is as loud as expected, towards 0 where it is not, [n, P].
        noise: Power of other notes relative to the partial's, [n, P].
        hz: Frequencies of the partials, [P].
    """

    phasors: np.ndarray
    amplitude_match: np.ndarray
    noise: np.ndarray
    hz: np.ndarray

    def select(self, index: slice) -> "KeyPhases":
        """Some of the notes."""
        return KeyPhases(self.phasors[index], self.amplitude_match[index], self.noise[index], self.hz)

    def shifted_phasors(self, shift: np.ndarray) -> np.ndarray:
        """Phasors at onsets that lie later by `shift` [n] seconds, complex [n, P]."""
        return self.phasors * np.exp(2j * np.pi * np.outer(shift, self.hz))

    def shifted(self, shift: np.ndarray) -> "KeyPhases":
        """The same measurement, with expected onsets that lie later by `shift` [n] seconds."""
        return replace(self, phasors=self.shifted_phasors(shift))

    def weights(self, phasor: np.ndarray) -> np.ndarray:
        """Weights [n, P] of the partials in the likelihood, for a key's mean phasor [P]."""
        return INDEPENDENCE * self.amplitude_match / (1 / concentration(np.abs(phasor)) + self.noise)

    def fit_score(self, phasor: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """How significant the fits [n] are: fit * sqrt(effective number of partials).

        Returns:
            Scores [n]; NaN where the effective number would be below MIN_PARTIALS even if all partials were as loud as
            expected.
        """
        weights = self.weights(phasor)
        expected_number = effective_number(weights / self.amplitude_match)
        return np.where(expected_number < MIN_PARTIALS, np.nan, fit * np.sqrt(effective_number(weights)))

    def mean_phasor(self, shift: np.ndarray, fit: np.ndarray) -> np.ndarray:
        """The mean phasor [P] of notes shifted by [n] seconds, weighted by how well they fit [n]."""
        weight = np.clip(2 * (fit - 0.4), 0.0, 1.0)[:, None] / (0.1 + self.noise)
        return (weight * self.shifted_phasors(shift)).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)


def concentration(mean_length: np.ndarray) -> np.ndarray:
    """Concentration of the von Mises distribution, from the length of the mean phasor (Fisher 1993, section 4.5)."""
    r = np.clip(mean_length, 1e-6, 0.995)
    low = 2 * r + r**3 + 5 * r**5 / 6
    middle = -0.4 + 1.39 * r + 0.43 / (1 - r)
    high = 1 / (r**3 - 4 * r**2 + 3 * r)
    return np.where(r < 0.53, low, np.where(r < 0.85, middle, high))


def effective_number(weights: np.ndarray) -> np.ndarray:
    """Kish's effective number of equally weighted items, for weights [n, P]: [n]."""
    return weights.sum(axis=1) ** 2 / np.maximum((weights**2).sum(axis=1), 1e-20)


def fit_key(
    notes: KeyPhases, phasor: np.ndarray, suitability: np.ndarray, *, update_phasor: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the onsets of a key's notes, and its mean phasor with them.

    Args:
        notes: The notes' measured phases.
        phasor: The key's mean phasor so far [P]; all 0 if it is not known yet.
        suitability: How suitable each note is for a first phasor, more than 0, [n].
        update_phasor: Whether to fit the phasor as well.

    Returns:
        Shifts of the onsets in seconds [n], their fits [n], the phasor [P].
    """
    if not phasor.any():
        phasor = initial_phasor(notes, suitability)
    shift, fit = fit_shifts(notes, phasor)
    for _ in range(N_EM_ITERATIONS - 1 if update_phasor else 0):
        phasor = notes.mean_phasor(shift, fit)
        # A common shift of all notes and a rotation of the phasor are the same: labels are assumed right on average.
        mean_shift = float(np.average(shift, weights=np.maximum(fit, 1e-3)))
        phasor = phasor * np.exp(-2j * np.pi * notes.hz * mean_shift)
        shift, fit = fit_shifts(notes, phasor)
    return shift, fit, phasor


def initial_phasor(notes: KeyPhases, suitability: np.ndarray) -> np.ndarray:
    """A first mean phasor [P]: that of the note with which the others agree best, after alignment to it."""
    noise_weight = 1 / (0.1 + notes.noise)
    selected = np.argsort(-suitability * noise_weight.sum(axis=1), kind="stable")[:N_INITIAL_NOTES]
    shifts = np.arange(-SEARCH_SECONDS, SEARCH_SECONDS, 2 * GRID_SECONDS)
    rotation = np.exp(2j * np.pi * np.outer(notes.hz, shifts))
    phasors, weight = notes.phasors[selected], 1 / (0.1 + notes.noise[selected])
    best_score = -np.inf
    for i in range(len(selected)):
        both = weight * weight[i] / (weight + weight[i])
        agreement = ((phasors * phasors[i].conj() * both) @ rotation).real / both.sum(axis=1, keepdims=True)
        agreement -= shifts**2 / (2 * SEARCH_SECONDS**2 * len(notes.hz))
        score = np.sort(agreement.max(axis=1))[-max(3, len(selected) // 2) :].mean()
        if i == 0 or score > best_score:
            best_score = score
            shift = shifts[agreement.argmax(axis=1)]
            trust = np.maximum(agreement.max(axis=1) - MIN_FIT, 1e-3)
    shift = shift - (trust * shift).sum() / trust.sum()
    weight = weight * trust[:, None]
    aligned = phasors * np.exp(2j * np.pi * np.outer(shift, notes.hz))
    return (weight * aligned).sum(axis=0) / weight.sum(axis=0)


def fit_shifts(notes: KeyPhases, phasor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum-likelihood shift of each note.

    Args:
        notes: The notes' measured phases.
        phasor: The key's mean phasor, [P].

    Returns:
        Shifts in seconds [n], and the weighted mean cosine of the remaining phase errors [n].
    """
    blocks = [slice(first, first + NOTES_PER_BLOCK) for first in range(0, len(notes.phasors), NOTES_PER_BLOCK)]
    shifts, fits = zip(*(_fit_block(notes.select(block), phasor) for block in blocks), strict=True)
    return np.concatenate(shifts), np.concatenate(fits)


def _fit_block(notes: KeyPhases, phasor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `fit_shifts`, for all notes at once.

    The peaks of the likelihood on a grid are refined by Newton's method before the best is selected, since the phases
    of the highest partials change much from one grid point to the next. All candidates of all notes take each step at
    once: scipy's optimisers and peak finder take one problem a call, at 0.3 ms for a fit.
    """
    weights, variance = notes.weights(phasor), LABEL_ERROR_SECONDS**2
    terms = notes.phasors * weights * phasor.conj() / np.maximum(np.abs(phasor), 1e-12)
    grid = np.arange(-SEARCH_SECONDS, SEARCH_SECONDS, GRID_SECONDS)
    likelihood = (terms @ np.exp(2j * np.pi * np.outer(notes.hz, grid))).real - grid**2 / (2 * variance)
    is_peak = (likelihood[:, 1:-1] >= likelihood[:, :-2]) & (likelihood[:, 1:-1] > likelihood[:, 2:])
    likelihood = np.where(is_peak, likelihood[:, 1:-1], -np.inf)
    shift = grid[1 + np.argsort(-likelihood, axis=1)[:, :N_CANDIDATES]]  # [n, candidates]
    omega = 2 * np.pi * notes.hz
    for _ in range(N_NEWTON_ITERATIONS):
        rotated = terms[:, None] * np.exp(1j * shift[..., None] * omega)
        slope = -(rotated.imag * omega).sum(-1) - shift / variance
        curvature = (rotated.real * omega**2).sum(-1) + 1 / variance
        newton = np.where(curvature > 0, slope / np.abs(curvature), 0.0)
        shift = shift + np.clip(newton, -GRID_SECONDS, GRID_SECONDS)
    rotated = terms[:, None] * np.exp(1j * shift[..., None] * omega)
    best = (rotated.real.sum(-1) - shift**2 / (2 * variance)).argmax(axis=1)
    rows = np.arange(len(shift))
    return shift[rows, best], rotated.real.sum(-1)[rows, best] / weights.sum(axis=1)
