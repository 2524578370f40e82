"""The worker's drivers."""
