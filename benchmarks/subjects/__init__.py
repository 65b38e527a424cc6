"""Who is measured: one file for each design or product."""
