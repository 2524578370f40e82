"""The drivers: PostgreSQL, processes, log files."""
