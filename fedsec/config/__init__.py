"""The audit configuration file."""
