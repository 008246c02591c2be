"""Recipes of the tests, found through the entry point `zoo.recipes`."""
