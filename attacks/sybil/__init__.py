"""Sybil identities that carry a poisoning attack."""
