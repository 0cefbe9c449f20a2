"""Play a bundle with your own build of NVIDIA's nv-wavenet, on a CUDA GPU (README.md in this folder).

    python -m nv_wavenet_bridge.run bundle --nv_wavenet nv-wavenet/pytorch --implementation single

Writes a wav per piece, prints samples per second, and compares what was drawn with the emulator and expected.npy.
"""

if __name__ == "__main__":
    from midi2wave.utils import signals

    signals.exit_on_interrupt()  # Ctrl-C during the imports below needs no traceback.

import ctypes
import importlib
import inspect
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from midi2wave.audio.io import write_wav
from midi2wave.audio.mu_law import mu_law_decode
from midi2wave.audio.pre_emphasis import Deemphasis, mu_law_decode_preemphasized
from midi2wave.utils.atomic_files import remove_partial_files
from midi2wave.utils.cli import count_of, log, make_parser, report_and_exit_code, run
from midi2wave.utils.errors import InputError
from midi2wave.utils.folder_lock import lock_folder
from nv_wavenet_bridge import bundle, fold
from nv_wavenet_bridge.check import compare

IMPLEMENTATIONS = {"auto": "AUTO", "single": "SINGLE_BLOCK", "dual": "DUAL_BLOCK", "persistent": "PERSISTENT"}
WARM_UP_SAMPLES = 256
# Of glibc, whose rand() the wrapper of nv-wavenet draws from.
RAND_MAX = 2**31 - 1
RAND_SEED = 1


def main(argv: list[str] | None = None) -> int:
    """Play the bundle; returns the exit code."""
    arguments = make_parser(__doc__, force="overwrite wavs that an earlier call made")
    arguments.add_argument("bundle", type=Path, metavar="BUNDLE")
    arguments.add_argument("--nv_wavenet", type=Path, required=True, help="folder with nv_wavenet.py, built")
    arguments.add_argument("--implementation", choices=IMPLEMENTATIONS, default="auto", help="kernel (default auto)")
    arguments.add_argument("--out", type=Path, help="where the wavs go (default BUNDLE/played_IMPLEMENTATION)")
    compare_help = "samples of each piece to compare with the emulator (default 20000)"
    arguments.add_argument("--compare_samples", type=int, default=20000, help=compare_help)
    args = arguments.parse_args(argv)
    read = bundle.read(args.bundle)
    size, batch_size = bundle.sizes(read.weights), len(read.uniforms)
    implementation = _implementation(args.implementation, size, batch_size)
    folder = args.out or args.bundle / f"played_{implementation}"
    wavs = [folder / f"{piece['name']}.wav" for piece in read.about["pieces"]]
    if not args.force and (there := [wav for wav in wavs if wav.exists()]):
        raise InputError(f"{there[0]} exists; choose another --out, or use --force, which overwrites it")
    module = load_nv_wavenet(args.nv_wavenet, size)
    _check_gpu(read, size, implementation)
    codes, uniforms, seconds = _play(module, read, IMPLEMENTATIONS[implementation])
    with lock_folder(folder):
        remove_partial_files(folder)
        for row, wav, piece in zip(codes, wavs, read.about["pieces"], strict=True):
            write_wav(wav, _to_pcm(row[: piece["n_samples"]], read.about["preemphasis"]), read.about["audio_hz"])
    rate = codes.size / seconds
    result: dict[str, Any] = {"out": str(folder), "implementation": implementation, "samples_per_second": rate}
    compared = slice(0, max(1, args.compare_samples))
    comparison = compare(read.weights, read.cond_input[..., compared], uniforms[:, compared], codes[:, compared])
    words = [f"emulator along the same past: {comparison}"]
    if uniforms is read.uniforms:
        until = [_equal_until(a, b) for a, b in zip(codes, read.expected, strict=True)]
        result["equal_to_expected_until"] = until
        words.append(f"equal to {bundle.EXPECTED_NAME} for the first {until} of {codes.shape[1]} samples")
    else:
        words.append(f"not compared with {bundle.EXPECTED_NAME}: this build draws its own random numbers (README.md)")
    result |= {"compared": comparison.n_samples, "on_edge": comparison.on_edge, "different": comparison.wrong}
    speed = f"{implementation}: {rate:.0f} samples/s ({batch_size} side by side)"
    summary = "\n".join([f"{count_of(len(wavs), 'wav')} in {folder}", speed, *words])
    return report_and_exit_code(summary, result, [], len(wavs), as_json=args.as_json)


def _to_pcm(codes: np.ndarray, preemphasis: float) -> np.ndarray:
    """Mu-law codes [T] -> int16 [T], de-emphasised."""
    if not preemphasis:
        return mu_law_decode(codes[None])[0]
    return Deemphasis(preemphasis)(mu_law_decode_preemphasized(codes[None]))[0]


def load_nv_wavenet(folder: Path, size: dict[str, int]) -> ModuleType:
    """nv-wavenet's PyTorch wrapper from the folder it was built in, compiled for these sizes. Raises InputError."""
    folder = folder if (folder / "nv_wavenet.py").is_file() else folder / "pytorch"
    if not (folder / "nv_wavenet.py").is_file():
        raise InputError(f"{folder.parent} holds no nv_wavenet.py; give the pytorch folder of a built nv-wavenet")
    sys.path.insert(0, str(folder.resolve()))
    try:
        module, extension = importlib.import_module("nv_wavenet"), importlib.import_module("nv_wavenet_ext")
        compiled = {
            "R": extension.num_res_channels(),
            "S": extension.num_skip_channels(),
            "A": extension.num_out_channels(),
        }
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(f"{folder} is not a working build of nv-wavenet ({error}); see README.md") from error
    wanted = {name: size[name] for name in compiled}
    if compiled != wanted:
        raise InputError(
            f"{folder} was compiled for {compiled}, this bundle needs {wanted}; "
            "set them in wavenet_infer.cu and build again"
        )
    return module


def _implementation(name: str, size: dict[str, int], batch_size: int) -> str:
    """The implementation to use. Raises InputError where it has no kernel: nv-wavenet would abort the process."""
    if size["R"] <= 64:
        return name
    if name not in ("auto", "persistent"):
        raise InputError(f"--implementation {name} has no kernel for R = {size['R']}; use persistent")
    return "persistent"


def _check_gpu(read: bundle.Bundle, size: dict[str, int], implementation: str) -> None:
    """Refuse what would make nv-wavenet abort the process: no GPU, too little memory, an index beyond 32 bits."""
    import torch  # --help should not wait for it.

    if not torch.cuda.is_available():
        raise InputError("no CUDA GPU here; nv-wavenet needs one (nv_wavenet_bridge.check works without)")
    n_residual, batch_size, n_layers, n_samples = read.cond_input.shape[0] // 2, *read.cond_input.shape[1:]
    history = (read.weights["max_dilation"] + 1) * (n_layers + 1) * n_residual * batch_size
    max_samples = fold.max_samples(n_layers, n_residual, batch_size)
    if n_samples > max_samples or history > fold.MAX_INDEX:
        raise InputError(f"{n_samples} samples of {batch_size} pieces are beyond a 32-bit index; export less")
    needed, free = 4 * (read.cond_input.size + history), torch.cuda.mem_get_info(0)[0]
    if needed > free:
        raise InputError(f"takes {needed / 1e9:.1f} GB on the GPU, {free / 1e9:.1f} GB are free; export less")
    blocks = fold.persistent_blocks(n_layers, n_residual, size["S"], size["A"], batch_size)
    n_multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    if implementation == "persistent" and blocks > n_multiprocessors:
        log(
            f"persistent keeps {blocks} blocks on the GPU, which has {n_multiprocessors} multiprocessors: "
            "it may abort here"
        )


def _play(module: ModuleType, read: bundle.Bundle, implementation: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Codes [B, T] drawn by nv-wavenet, the uniforms that it used [B, T], and the seconds that it took.

    The time includes what every call of the wrapper does: build the network, and upload it and the conditioning.
    """
    import torch

    try:
        network = module.NVWaveNet(**bundle.as_torch(read.weights))
        kernel = getattr(module.Impl, implementation)
    except (AssertionError, AttributeError, TypeError) as error:
        raise InputError(f"nv-wavenet does not take this bundle ({error}); is it another version?") from error
    # It stays off the GPU: nv-wavenet makes its own copy there. Its memory layout is the file's, so none is made here.
    cond_input = torch.from_numpy(read.cond_input)
    takes_uniforms = "uniforms" in inspect.signature(network.infer).parameters
    network_infer = (
        (lambda cond, u: network.infer(cond, kernel, uniforms=torch.from_numpy(u)))
        if takes_uniforms
        else (lambda cond, u: network.infer(cond, kernel))
    )
    short = np.ascontiguousarray(read.uniforms[:, :WARM_UP_SAMPLES])
    network_infer(cond_input[..., :WARM_UP_SAMPLES], short).cpu()
    uniforms = read.uniforms if takes_uniforms else rand_uniforms(RAND_SEED, *read.uniforms.shape)
    started = time.perf_counter()
    codes = network_infer(cond_input, uniforms).cpu().numpy()
    seconds = time.perf_counter() - started
    size = bundle.sizes(read.weights)
    if codes.shape != read.uniforms.shape or codes.min() < 0 or codes.max() >= size["A"]:
        raise InputError("nv-wavenet returned something else than codes; was it built with -DNDEBUG? (README.md)")
    return codes, uniforms, seconds


def rand_uniforms(seed: int, batch_size: int, n_samples: int) -> np.ndarray:
    """Seed libc's rand(), and compute the uniforms [B, T] that the wrapper's next call will draw from it, as float32.

    The wrapper draws two numbers a value, piece after piece, and uses the second: u = rand / RAND_MAX - 0.5 + 0.5.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.srand(seed)
    except (AttributeError, OSError, TypeError) as error:
        raise InputError("the numbers of an unmodified nv-wavenet come from Linux's rand(); play it there") from error
    count = 2 * batch_size * n_samples
    second = np.fromiter((libc.rand() for _ in range(count)), dtype=np.int64, count=count)[1::2]
    libc.srand(seed)
    centred = second.astype(np.float32) / np.float32(RAND_MAX) - np.float32(0.5)
    return (centred + np.float32(0.5)).reshape(batch_size, n_samples)


def _equal_until(a: np.ndarray, b: np.ndarray) -> int:
    """How many samples are equal before the first that is not."""
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else len(a)


if __name__ == "__main__":
    run(main)
