"""The HTTP contract, over real HTTP."""
