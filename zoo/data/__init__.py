"""Data: sources, formats, kinds, chat templates, encoding, loading."""
