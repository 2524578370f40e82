"""Connections and the machinery between services: no business rules. Every service builds on it; it knows none of them."""
