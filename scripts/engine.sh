#!/usr/bin/env bash
# What the tests of images need, for Debian and root: Docker Engine and Buildx of a newer Debian release, unpacked beside this
# machine's own; runc, a registry and mmdebstrap of this one; the root file system that base images are made of.
# Everything is kept in the folder `shipoff-tests` of SHIPOFF_TEST_TOOLS, and made again only when this file changes.
set -euo pipefail
tools=${SHIPOFF_TEST_TOOLS:-/var/cache}/shipoff-tests
made="$tools/$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-16)"
[[ -e "$made" ]] && exit 0
if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "a Docker Engine for the tests of images cannot be brought here: run this as root on Debian. Where it is missing," \
    "make test leaves them out and CI fails" >&2
  exit 1
fi

engine_release=forky   # BuildKit 0.16 or newer: secrets as environment variables
base_release=trixie
rm -rf "$tools"
mkdir -p "$tools/apt/lists/partial" "$tools/apt/archives/partial" "$tools/debs" "$tools/engine"
export DEBIAN_FRONTEND=noninteractive
again=(-o Acquire::Retries=5)
apt-get "${again[@]}" update -qq || true
# In runlevel 1 a package does not start a server of its own.
RUNLEVEL=1 apt-get "${again[@]}" install -y -qq --no-install-recommends \
  runc iptables docker-registry mmdebstrap debian-archive-keyring ca-certificates >"$tools/install.log"

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: '"$(. /etc/os-release; echo "$VERSION_CODENAME")" | head -1)
signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
echo "deb $signed $mirror $engine_release main" >"$tools/engine.list"
chmod -R a+rX "$tools"
newer=("${again[@]}" -o Dir::Etc::SourceList="$tools/engine.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$tools/apt/lists" -o Dir::Cache="$tools/apt" -o APT::Sandbox::User=root)
apt-get "${newer[@]}" update -qq
(cd "$tools/debs" && apt-get "${newer[@]}" download -qq docker.io docker-cli docker-buildx containerd tini-static)
for package in "$tools"/debs/*.deb; do dpkg-deb -x "$package" "$tools/engine"; done

mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Retries "5"' --include=ca-certificates,nodejs,python3,tini \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists/*' \
  "$base_release" "$tools/base.tar" "deb $signed $mirror $base_release main"
npm pack --silent --fetch-retries 5 --pack-destination "$tools" npm@10 >/dev/null
rm -rf "$tools/apt" "$tools/debs"
touch "$made"
