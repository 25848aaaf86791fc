"""Malicious servers: models made to make clients leak."""
