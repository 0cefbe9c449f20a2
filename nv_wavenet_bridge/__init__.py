"""Trained models for NVIDIA's nv-wavenet (CUDA): export, check without a GPU, run. See README.md in this folder."""
