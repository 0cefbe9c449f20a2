"""Layers of a key whose envelopes rise at different rates, but whose partials have the same phases."""

import numpy as np
import pytest
import soundfile

from midi2wave.data.layer_alignment import align_layers, find_lag
from midi2wave.data.sample_analysis import measure_sample
from midi2wave.data.sampled_instrument import load_instrument
from midi2wave.data.sfz import read_sfz

HZ = 48000
HERTZ = 110.0
DELAYS_MS = (5.0, 12.0, 21.5)
# The louder a layer is, the faster its attack.
RISES_MS = (4.0, 2.0, 0.5)


@pytest.fixture
def sfz(tmp_path):
    lines = []
    # Partials that begin in phase would be one pulse a period, whose envelope rises by steps.
    phases = np.random.default_rng(3).uniform(0, 2 * np.pi, 8)
    for layer, (delay, rise) in enumerate(zip(DELAYS_MS, RISES_MS, strict=True)):
        time = np.arange(HZ) / HZ - delay / 1000
        tone = sum(np.sin(2 * np.pi * HERTZ * n * time + phase) / n for n, phase in enumerate(phases, 1))
        tone = 0.1 * (layer + 1) * tone * np.clip(time / (rise / 1000), 0, 1) * np.exp(-time.clip(0) / 0.05)
        soundfile.write(tmp_path / f"{layer}.wav", tone, HZ, subtype="FLOAT")
        lines.append(f"<region> sample={layer}.wav key=45 lovel={40 * layer + 1} hivel={40 * layer + 40}")
    (tmp_path / "a.sfz").write_text("\n".join(lines))
    return tmp_path / "a.sfz"


def test_layers_are_in_phase(sfz):
    """The attacks differ as the delays do, although each envelope rises at another rate."""
    regions = read_sfz(sfz)
    measured = {region.sample: measure_sample(region.sample) for region in regions}
    aligned = align_layers(regions, measured)
    delays = np.array(DELAYS_MS) * HZ / 1000
    before, after = (np.array([samples[r.sample].attack for r in regions]) for samples in (measured, aligned))
    assert np.ptp(before - delays) > 20 and np.ptp(after - delays) <= 3
    assert np.median(after - before) == 0
    assert [sample.attack for sample in load_instrument(sfz, 1.0).samples] == after.tolist()


def test_the_lag_of_two_sounds():
    noise = np.random.default_rng(0).standard_normal((2000, 2))
    assert find_lag(noise[100:1600], noise[83:1583], 50) == 17
    assert find_lag(noise[100:1600], -3 * noise[83:1583], 50) == 0
    assert find_lag(noise[100:1600], np.random.default_rng(1).standard_normal((1500, 2)), 50) == 0
    assert find_lag(noise[100:1600], np.zeros((1500, 2)), 50) == 0
