"""A page that says hello and counts its visitors since the start."""

import itertools
import os
import platform

from flask import Flask, request

app = Flask(__name__)
visits = itertools.count(1)
print("hello-python is starting", flush=True)


@app.get("/")
def hello() -> str:
    name = os.environ.get("GREETING_NAME", "Shipoff")
    return f"<!doctype html><title>hello-python</title><h1>Hello from {name}</h1><p>Python {platform.python_version()}, visit {next(visits)}</p>\n"


@app.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.after_request
def log(response):
    print(request.method, request.path, response.status_code, flush=True)
    return response


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
