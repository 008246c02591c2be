"""`zoo label`: a judge's verdicts on pairs of answers, as a file of labelled rows."""
