"""Races, proven by gates between independent sessions."""
