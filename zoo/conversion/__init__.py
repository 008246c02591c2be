"""Config files of other programs, in zoo's words."""
