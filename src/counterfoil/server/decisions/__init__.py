"""Deciding by policy: versioned rules over what the book says."""
