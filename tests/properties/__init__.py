"""Generated histories beside a plain model."""
