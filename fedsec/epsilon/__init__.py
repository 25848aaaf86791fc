"""Epsilon, claimed and measured: the exact Gaussian mechanism, and lower bounds from audits."""
