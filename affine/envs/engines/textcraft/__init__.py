"""Minecraft's recipes."""
