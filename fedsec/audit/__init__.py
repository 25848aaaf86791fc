"""The audit: plan, run, store, results."""
