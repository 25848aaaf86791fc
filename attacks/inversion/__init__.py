"""Gradient inversion: inputs out of updates."""
