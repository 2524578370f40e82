"""The client: every verb a person or a script says to the platform, over REST and WebSocket only.

It imports nothing of the services. What a verb prints for machines (`--json`) is all that reaches standard output.

Exit codes: 0 done · 1 the deployment failed, or the platform refused · 2 wrong usage · 3 not signed in ·
4 not found · 5 the platform cannot be reached · 130 interrupted.
"""
