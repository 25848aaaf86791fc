"""Text read out of updates: which tokens, in which order, in which sentence."""
