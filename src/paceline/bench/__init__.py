"""Measuring: step times against the machine's memory bandwidth, and whole servers against their peers."""
