"""fedsec: the privacy and security evaluation suite for federated learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsec.audit.api import Audit, AuditResult

__version__ = "0.1.0"
__all__ = ["Audit", "AuditResult", "__version__"]


def __getattr__(name: str) -> Any:
    # `import fedsec` must not pull in torch: listing and --help stay fast.
    if name in {"Audit", "AuditResult"}:
        from fedsec.audit import api

        return getattr(api, name)
    raise AttributeError(f"module 'fedsec' has no attribute {name!r}")
