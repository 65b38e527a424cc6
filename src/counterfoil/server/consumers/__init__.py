"""Consumers: durable readers to whom the log hands its events out, under leases."""
