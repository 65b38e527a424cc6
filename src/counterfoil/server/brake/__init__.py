"""The brake: an agent, a tag or a whole book that nothing may be written about for now."""
