"""Defenses, one folder per family."""
