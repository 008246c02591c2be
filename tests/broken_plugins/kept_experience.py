"""Has a field that can only be loaded by running code from the file."""

from fractions import Fraction

from broken_plugins.sound_online import Sound


class Broken(Sound):
    """Keeps lengths as fractions of the longest."""

    def _more(self, answers):
        longest = int(answers.lengths.max())
        return {"share": [Fraction(int(length), longest) for length in answers.lengths]}
