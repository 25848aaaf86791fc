"""Robust aggregation rules."""
