"""Recipes: files that state what a paper claims and how the claims are tested."""
