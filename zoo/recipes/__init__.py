"""Recipes: files that state what a paper claims, and how it is tested."""
