"""Two-party building blocks."""
