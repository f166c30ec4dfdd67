"""How good answers are, and whether they stay the same, under different settings of one model."""
