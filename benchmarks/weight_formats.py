"""What a rounding of the weights costs: NLL of test clips by the CPU engine, in every number format.

    python -m benchmarks.weight_formats pretrained/disklavier.safetensors data/real/test_10s
    python -m benchmarks.weight_formats MODEL FOLDER --json

The clips are those of preprocess_audio.py. The engine itself runs teacher-forced over each; PyTorch's own pass over the
same samples is the reference.
"""

import argparse
from pathlib import Path

import numpy as np

from midi2wave.config import SamplerWeights
from midi2wave.utils.cli import make_parser, print_result, progress, run
from midi2wave.utils.errors import InputError

# Name of the row, number format of the weights, and whether the processor's own bfloat16 products are avoided.
FORMATS: tuple[tuple[str, SamplerWeights, bool], ...] = (
    ("float32", "float32", False),
    ("bfloat16, multiplied by the processor", "bfloat16", False),
    ("bfloat16, widened to float32", "bfloat16", True),
)
REFERENCE = "PyTorch, float32"


def likelihoods(model_path: str, folder: str) -> dict[str, list[float]]:
    """NLL in nats per sample of every clip: PyTorch's, then that of the engine in each format."""
    import torch

    from midi2wave.checkpoint import load_checkpoint
    from midi2wave.evaluation.clips import load_clips
    from midi2wave.sampling.engines import cpu
    from midi2wave.sampling.options import SamplingOptions
    from midi2wave.sampling.synthesis import conditioning, negative_log_likelihood, to_samples
    from midi2wave.sampling.uniforms import seeded_uniforms

    loaded = load_checkpoint(model_path, "cpu")
    model, data = loaded.model, loaded.config.data_config
    clips, failures = load_clips(folder, data)
    if failures:
        raise InputError(f"{failures[0].item}: {failures[0].reason}")
    nll: dict[str, list[float]] = {name: [] for name in (REFERENCE, *(row[0] for row in FORMATS))}
    for clip in progress(clips, len(clips), "clips"):
        nll[REFERENCE].append(negative_log_likelihood(model, clip.performance, clip.truth, data))
        samples = to_samples(model, clip.truth[None], data)
        inputs = conditioning([clip.performance], data, torch.device("cpu"))
        uniforms = seeded_uniforms(0, [0], model.uniforms_per_sample)
        for name, weights, portable in FORMATS:
            options = SamplingOptions(weights=weights, threads=1)
            _, params = cpu.replay(model, inputs, uniforms, samples, options, portable=portable)
            nll[name].append(-model.log_likelihood(params, samples).mean().item())
    return nll


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("model", help="a .safetensors file, a run folder or a checkpoint's folder")
    parser.add_argument("clips", help="a folder of test clips (preprocess_audio.py)")
    args: argparse.Namespace = parser.parse_args()
    nll = likelihoods(args.model, args.clips)
    means = {name: float(np.mean(values)) for name, values in nll.items()}
    rows = {name: {"nll": mean, "change": mean - means[REFERENCE]} for name, mean in means.items()}
    lines = ["| format | NLL, nats per sample | change |", "|---|---|---|"]
    lines += [f"| {name} | {row['nll']:.4f} | {row['change']:+.5f} |" for name, row in rows.items()]
    result = {"model": Path(args.model).stem, "n_clips": len(nll[REFERENCE]), "formats": rows}
    print_result("\n".join(lines), result, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
