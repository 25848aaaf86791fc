"""Intervals, pooling over seeds, severity."""
