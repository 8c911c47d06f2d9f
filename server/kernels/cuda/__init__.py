"""Networks of 3×3 convolutions on NVIDIA GPUs, in Triton. Nothing of it has run on a GPU: see network.py."""
