"""Speculation measured at a running server: its streams, and what it or its counters tell of verification steps."""
