"""Who may call, and as whom. Today: whoever has the one key."""
