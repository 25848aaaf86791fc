"""Who is let into a round: certified identities, and limits on identities that nobody vouches for."""

from .certificates import Answer, Authority, Certificate, Gate, Holder

__all__ = ["Answer", "Authority", "Certificate", "Gate", "Holder"]
