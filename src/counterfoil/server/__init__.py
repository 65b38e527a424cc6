"""The service: the book behind an HTTP door."""
