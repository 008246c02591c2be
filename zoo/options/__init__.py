"""One dataclass field is a flag, a YAML key, an argument and its help."""
