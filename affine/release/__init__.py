"""Merge, check, describe, publish."""
