"""A rule that holds for many things, as one test that names all those that break it: not a test file itself."""

import pytest


def each(things, check, name=str):
    """Check one thing after the other; fails with every thing that breaks the rule, and what its check said."""
    broken = []
    for thing in things:
        try:
            check(thing)
        except (Exception, pytest.fail.Exception) as error:
            told = isinstance(error, AssertionError | pytest.fail.Exception)
            said = str(error) if told else f"{type(error).__name__}: {error}"
            broken.append(f"{name(thing)}: {said}")
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)
