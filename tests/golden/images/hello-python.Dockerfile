# Made by Shipoff from the build's plan.
FROM registry.example/build@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb AS base
ENV CI="true"
ENV COREPACK_ENABLE_DOWNLOAD_PROMPT="0"
ENV DO_NOT_TRACK="1"
ENV NEXT_TELEMETRY_DISABLED="1"
ENV PIP_CERT="/run/shipoff/PIP_CERT"
ENV PIP_DISABLE_PIP_VERSION_CHECK="1"
ENV POETRY_VIRTUALENVS_IN_PROJECT="true"
ENV PYTHONDONTWRITEBYTECODE="1"
ENV SOURCE_DATE_EPOCH="315532800"
ENV UV_CACHE_DIR="/var/cache/shipoff/uv"
ENV UV_NO_EDITABLE="1"
ENV UV_PYTHON_DOWNLOADS="never"
ENV UV_SYSTEM_CERTS="true"
ENV UV_VENV_RELOCATABLE="1"
ENV npm_config_audit="false"
ENV npm_config_fund="false"
ENV npm_config_update_notifier="false"
WORKDIR /app

FROM base AS deps
ARG TARGETARCH
COPY ["requirements.txt", "/app/"]
WORKDIR /app
RUN --mount=type=cache,id=team/app/uv/$TARGETARCH,target=/var/cache/shipoff/uv,sharing=locked --mount=type=secret,id=API_TOKEN,env=API_TOKEN --mount=type=secret,id=VITE_TITLE,env=VITE_TITLE --mount=type=secret,id=operator.HTTPS_PROXY,env=HTTPS_PROXY --mount=type=secret,id=operator.PIP_CERT,target=/run/shipoff/PIP_CERT,mode=0444 ["/usr/bin/env", "SHIPOFF_VARIABLES=1111111111111111,2222222222222222", "uv", "venv", "--relocatable", "--clear", "--python", "python3", ".venv"]
RUN --mount=type=cache,id=team/app/uv/$TARGETARCH,target=/var/cache/shipoff/uv,sharing=locked --mount=type=secret,id=API_TOKEN,env=API_TOKEN --mount=type=secret,id=VITE_TITLE,env=VITE_TITLE --mount=type=secret,id=operator.HTTPS_PROXY,env=HTTPS_PROXY --mount=type=secret,id=operator.PIP_CERT,target=/run/shipoff/PIP_CERT,mode=0444 ["/usr/bin/env", "SHIPOFF_VARIABLES=1111111111111111,2222222222222222", "uv", "pip", "install", "--python", ".venv/bin/python", "--requirement", "requirements.txt"]

FROM registry.example/run@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd AS init
USER 0:0
RUN ["/bin/sh", "-c", "set -e; for place in /usr/bin/tini-static /sbin/tini-static /usr/bin/tini /sbin/tini /usr/bin/docker-init; do if [ -x \"$place\" ]; then cp \"$place\" /usr/local/bin/shipoff-init; exit 0; fi; done; if command -v apt-get >/dev/null; then apt-get update; apt-get install -y --no-install-recommends tini; cp /usr/bin/tini-static /usr/local/bin/shipoff-init; elif command -v apk >/dev/null; then apk add --no-cache tini-static; cp /sbin/tini-static /usr/local/bin/shipoff-init; else echo 'the base image has no tini, and neither apt-get nor apk to install it' >&2; exit 1; fi"]

FROM registry.example/run@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd AS runtime
COPY --from=init /usr/local/bin/shipoff-init /usr/local/bin/shipoff-init
COPY --from=deps --chown=10001:10001 /app /app
COPY --chown=10001:10001 [".", "/app/"]
ENV PATH=/app/.venv/bin:/app/node_modules/.bin:$PATH
ENV LANG=C.UTF-8 HOME=/tmp PYTHONUNBUFFERED=1 NODE_ENV=production
ENV HOST=0.0.0.0 PORT=8080
WORKDIR /app
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/shipoff-init", "--"]
CMD ["/bin/sh", "-c", "exec .venv/bin/python -m gunicorn app:app --bind \"${HOST}\":\"${PORT}\" --threads 8"]
