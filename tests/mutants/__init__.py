"""Plausible mistakes, each killed by a named test."""
