"""Checkpoints, adapters, rendering, and the nano model."""
