"""The checks of the conformance suite: each takes a `Bench`, and raises `Failed` or `NotApplicable`."""
