"""Data and model poisoning."""
