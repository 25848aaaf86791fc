"""Gradient inversion of text."""
