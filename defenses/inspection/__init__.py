"""Inspection: clients that look at the model they are sent."""
