"""What holds a running server back, from what it says of itself and what a few requests see."""
