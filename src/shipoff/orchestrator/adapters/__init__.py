"""The orchestrator's drivers."""
