"""The load generator: what it sends to each server, when, and what became of it."""
