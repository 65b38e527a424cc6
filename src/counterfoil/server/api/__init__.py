"""The HTTP door: one file per resource, and what they share."""
