#!/bin/sh
# What a person's own script does to put a folder of files live behind Caddy.
# Arguments: the folder, the work folder whose `current` Caddy serves, the URL, and the text that its page then shows.
set -eu
source=$1 work=$2 url=$3 marker=$4
release=$work/releases/$(date +%s%N)
mkdir -p "$release"
tar -C "$source" -czf "$work/push.tar.gz" .
tar -C "$release" -xzf "$work/push.tar.gz"
ln -sfn "$release" "$work/current"
until curl -fsS "$url" 2>/dev/null | grep -q -- "$marker"; do sleep 0.02; done
