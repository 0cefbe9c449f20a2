"""Random weights of the shape of a trained model: what a training without a base begins with.

    python -m benchmarks.random_weights -o random.safetensors --like pretrained/grand.safetensors

`finetune.py --base random.safetensors` then trains from the beginning (docs/own_piano.md).
"""

from pathlib import Path

from midi2wave.utils.atomic_files import atomic_file
from midi2wave.utils.cli import make_plain_parser, print_result, run
from midi2wave.utils.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Write the file; returns the exit code."""
    parser = make_plain_parser(__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the weights file, NAME.safetensors")
    parser.add_argument("--like", required=True, help="weights of the model whose config it gets")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as one JSON object")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise InputError(f"{args.out} exists; give the name of a new file")
    # PyTorch takes a second or two to import.
    import torch

    from midi2wave.checkpoint import load_weights, write_weights
    from wavenet import build_model

    config = load_weights(args.like)[1]
    torch.manual_seed(args.seed)
    weights = build_model(config).state_dict()
    with atomic_file(args.out) as tmp_path:
        write_weights(tmp_path, weights, config, 0, {"licence": "none: random numbers"})
    print_result(f"random weights: {args.out}", {"weights": str(args.out)}, as_json=args.as_json)
    return 0


if __name__ == "__main__":
    run(main)
