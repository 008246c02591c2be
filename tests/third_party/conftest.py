"""The tests of these packages run where the packages are installed: see tests/test_third_party.py."""

collect_ignore_glob = ["*"]
