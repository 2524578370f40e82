"""Where the log service meets drivers."""
