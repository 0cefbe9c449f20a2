"""Small models that nv-wavenet has a place for, unconditional ones, and files to play them."""

import json

import torch

from midi2wave import checkpoint
from midi2wave.config import config_from_dict
from wavenet import build_model

HZ = 4000

BLOCKS = {
    "data_config": {"audio_hz": HZ, "midi_hz": 250},
    "wavenet_config": {
        "output": "categorical",
        "n_layers": 3,
        "max_dilation": 4,
        "n_residual_channels": 6,
        "n_skip_channels": 9,
        "n_out_channels": 10,
        "n_cond_channels": 5,
    },
    "cond_wavenet_config": {
        "n_layers": 2,
        "max_dilation": 2,
        "n_residual_channels": 8,
        "n_skip_channels": 9,
        "lookahead_ms": 8.0,
    },
}

NO_MIDI = {"audio_hz": 4000, "midi_hz": 250, "features": [], "excitation": False}


def make(data=NO_MIDI, **overrides):
    """A random model and its config."""
    blocks = {**BLOCKS, "data_config": data, "wavenet_config": {**BLOCKS["wavenet_config"], **overrides}}
    config = config_from_dict(blocks, "test")
    torch.manual_seed(4)
    model = build_model(config).eval()
    torch.nn.init.normal_(model.decoder.output.weight, std=0.5)
    for layer in model.decoder.layers:
        torch.nn.init.normal_(layer.cond.bias, std=0.5)
    return model, config


def save(folder, model, config):
    checkpoint.save(folder, 1, model.state_dict(), {}, config, keep=1)
    return folder


def inference_file(folder, run, **keys):
    keys = {"model_filename": str(run), "device": "cpu", "mode": "free"} | keys
    (folder / "config.json").write_text(json.dumps({"inference_config": keys}))
    return folder / "config.json"
