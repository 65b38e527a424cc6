"""Event types with schemas: what a payload of a type must be, in versions."""
