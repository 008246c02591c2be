"""Commands of zoo that run at the same time: as processes of this machine, or as tasks of a Ray cluster."""
