"""The audit: plan, run, store, results."""

from fedsec.audit.api import Audit, AuditResult

__all__ = ["Audit", "AuditResult"]
