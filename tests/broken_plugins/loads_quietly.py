"""Prints when it is imported."""

from broken_plugins.sound import Sound

print("Thank you for choosing us.")


class Broken(Sound):
    """Greets."""
