"""The tests. What each folder proves is said in CONTRIBUTING."""
