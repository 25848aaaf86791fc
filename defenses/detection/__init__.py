"""Detection of anomalous updates."""
