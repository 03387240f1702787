"""Demonstrations as tokens."""
