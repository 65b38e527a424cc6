"""What every part stands on: limits, errors, settings, counters. No I/O."""
