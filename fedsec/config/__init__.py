"""The configuration: YAML in; a checked `AuditConfig`, or every problem at once, out."""

from fedsec.config.load import config_from, load_config, load_configs
from fedsec.config.schema import AuditConfig

__all__ = ["AuditConfig", "config_from", "load_config", "load_configs"]
