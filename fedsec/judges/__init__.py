"""Judges hold the truth and measure; attacks only act."""
