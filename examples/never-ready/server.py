"""Runs for ever and listens on nothing, so that it never becomes ready."""

import os
import signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print(f"never-ready is starting; it should listen on port {os.environ.get('PORT', '8000')}, but will not", flush=True)
while True:
    signal.pause()
