"""The client: every verb a person or a script says to the platform, over REST and WebSocket only.

It imports nothing of the services. What a verb prints for machines (`--json`) is all that reaches standard output. Its exit
codes are those of errors.ExitCode.
"""
