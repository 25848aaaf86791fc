"""Attacks, one folder per family of threat."""
