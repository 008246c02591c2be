"""The seam: the only place that knows the insides of the libraries underneath."""
