"""Federations: population, cohorts, local training, the round loop."""
