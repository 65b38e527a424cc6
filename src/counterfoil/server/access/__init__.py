"""Who may come in, and what they may do: tenants, keys, scopes, rates, and the trail of it."""
