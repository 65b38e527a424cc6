"""Tests of the database layer, on a real PostgreSQL."""
