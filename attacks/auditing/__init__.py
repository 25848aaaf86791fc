"""Audits of claimed privacy budgets."""
