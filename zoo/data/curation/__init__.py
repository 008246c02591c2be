"""Curation: removes duplicate rows, rows of poor quality, and rows that an evaluation set also contains."""
