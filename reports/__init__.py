"""From audit.json to pages; knows no attack and no defense by name."""
