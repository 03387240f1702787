"""Experts play, and what they solve becomes demonstrations."""
