"""Compression: what clients leave out of an update."""
