"""The shipped configs whose models the benchmarks measure."""

CONFIGS = {
    # The reference size of nv-wavenet, categorical.
    "reference": "config_train_nv_wavenet.json",
    "default": "config_train.json",
    "demo": "demo/config_train.json",
    "paper": "config_train_paper.json",
}
# Those that are measured unless the command line names others.
MEASURED = ["reference", "default", "demo"]
