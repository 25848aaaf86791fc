"""Encrypted aggregation."""
