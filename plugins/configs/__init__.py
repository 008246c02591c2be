"""Tables for `zoo convert-config`: a file for each program, which says what its options are here."""
