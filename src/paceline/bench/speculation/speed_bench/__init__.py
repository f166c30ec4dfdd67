"""SPEED-Bench (arXiv 2604.09557): its splits, built from a data folder. The method is NVIDIA's, the prompts are not."""
