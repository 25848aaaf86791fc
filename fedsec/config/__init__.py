"""The configuration: YAML in, a checked `AuditConfig` or every problem at once out."""
