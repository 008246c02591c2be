"""What plugins and core hand to each other, and the arithmetic on it."""
