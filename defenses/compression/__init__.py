"""Compression of uploads."""
