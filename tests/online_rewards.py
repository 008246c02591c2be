"""Rewards for the tests of online training, in a file that loads nothing: not a test file itself."""


def odd_letters(completions, records):
    """A reward that differs from answer to answer, and is missing for some."""
    sums = [sum(map(ord, text)) for text in completions]
    return [None if total % 5 == 0 else (total % 10) / 10 for total in sums]
