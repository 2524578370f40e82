# The platform as images: one common stage with everything in it, and a target a service that only sets the command.
#
#   docker buildx build --build-arg BASE=python:3.13-slim-trixie@sha256:… --target platform --tag registry/shipoff:0.1.0 --push .
#
# BASE: Debian with Python 3.11 or newer, by digest, so that the same sources make the same image. The digest of a tag today:
#   docker buildx imagetools inspect python:3.13-slim-trixie --format '{{.Manifest.Digest}}'
# What pip installs is locked by hashes. Behind a proxy with a certificate of its own: --secret id=certificates,src=bundle.crt.
ARG BASE

FROM ${BASE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# A Debian without pip gets it for this stage only.
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
WORKDIR /build
COPY requirements.lock requirements-dev.lock deploy/objects.lock ./
RUN --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/shipoff \
 && sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock >backend.lock \
 && /opt/shipoff/bin/pip install -q --require-hashes --only-binary :all: -r requirements.lock -r objects.lock -r backend.lock
COPY pyproject.toml README.md ./
COPY src src
RUN /opt/shipoff/bin/pip install -q --no-deps --no-build-isolation . \
 && /opt/shipoff/bin/pip uninstall -q -y setuptools pip

FROM ${BASE} AS common
# git fetches sources; tini ends what an ended program leaves behind.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends ca-certificates git tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --home-dir /var/lib/shipoff --create-home --shell /usr/sbin/nologin shipoff
COPY --from=dependencies /opt/shipoff /opt/shipoff
ENV PATH=/opt/shipoff/bin:/usr/local/bin:/usr/bin:/bin \
    SHIPOFF_HOME=/var/lib/shipoff \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. Nothing is written but below SHIPOFF_HOME and /tmp.
USER 10001:10001
WORKDIR /var/lib/shipoff
ENTRYPOINT ["tini", "--", "shipoff"]

FROM common AS gateway
CMD ["serve", "gateway"]

FROM common AS identity
CMD ["serve", "identity"]

FROM common AS project
CMD ["serve", "project"]

FROM common AS orchestrator
CMD ["serve", "orchestrator"]

FROM common AS build
CMD ["serve", "build"]

FROM common AS detector
CMD ["serve", "detector"]

FROM common AS runtime
CMD ["serve", "runtime"]

FROM common AS log
CMD ["serve", "log"]

FROM common AS cdn
CMD ["serve", "cdn"]

FROM common AS worker
CMD ["serve", "worker"]

# What builds run in that are Jobs: what they may need besides (Node.js; buildx, which makes images with a BuildKit elsewhere).
FROM common AS builder
USER 0
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends nodejs npm docker-buildx \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/shipoff/bin:/usr/local/bin:/usr/bin:/bin:/usr/libexec/docker/cli-plugins
USER 10001:10001
CMD ["serve", "build"]

# All of them, as the chart uses it: it names the command itself.
FROM common AS platform
CMD ["serve", "all"]
