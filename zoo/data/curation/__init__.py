"""Curation: rows that are twice there, rows of poor quality, and rows that an evaluation set holds too, taken out."""
