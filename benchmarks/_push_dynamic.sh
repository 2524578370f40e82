#!/bin/sh
# What a person's own script does to put a Python app live: an environment for each release, and the old one ends last.
# Arguments: the folder, the work folder, a free port, and the text that the app's page then shows.
set -eu
source=$1 work=$2 port=$3 marker=$4
release=$work/releases/$(date +%s%N)
mkdir -p "$release"
export UV_CACHE_DIR="$work/cache"
tar -C "$source" -czf "$work/push.tar.gz" .
tar -C "$release" -xzf "$work/push.tar.gz"
cd "$release"
uv --quiet venv --python python3 .venv
uv --quiet pip install --python .venv/bin/python --requirement requirements.txt
.venv/bin/python -m gunicorn app:app --bind "127.0.0.1:$port" --threads 8 >"$work/app.log" 2>&1 &
new=$!
until curl -fsS "http://127.0.0.1:$port/" 2>/dev/null | grep -q -- "$marker"; do sleep 0.02; done
if [ -e "$work/pid" ]; then kill "$(cat "$work/pid")"; fi
echo "$new" >"$work/pid"
