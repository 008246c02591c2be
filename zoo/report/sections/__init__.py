"""The sections of a report: each takes what a run left and returns plots, tables or sentences."""
