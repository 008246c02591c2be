"""The values that plugins and the core exchange, and the arithmetic on them."""
