"""Small worlds in which the truth is known: what takes a GPU hours elsewhere shows here in seconds."""
