"""Named reproductions of published results."""
