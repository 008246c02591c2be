"""`zoo board`: a page on this machine that shows runs and comparisons while they go on."""
