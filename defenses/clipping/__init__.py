"""Clipping of updates."""
