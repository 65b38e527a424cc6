"""The log: events are appended under conditions, and read back in one order."""
