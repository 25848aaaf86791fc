"""Perturbation of updates without accounting: it makes some attacks harder, and has no epsilon."""
