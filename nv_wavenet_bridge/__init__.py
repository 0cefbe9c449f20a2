"""Export trained models to NVIDIA's nv-wavenet (CUDA), check bundles without a GPU, run them. See README.md here."""
