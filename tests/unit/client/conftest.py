"""Fixtures of the client's tests."""

from tests.unit.client.doors import book, cf, clock, connect, service

__all__ = ["book", "cf", "clock", "connect", "service"]
