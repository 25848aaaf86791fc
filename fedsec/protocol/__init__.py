"""What crosses the wire, who sees it, and who may change it."""
