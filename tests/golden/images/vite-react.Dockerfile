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
ENV UV_NO_EDITABLE="1"
ENV UV_PYTHON_DOWNLOADS="never"
ENV UV_SYSTEM_CERTS="true"
ENV UV_VENV_RELOCATABLE="1"
ENV npm_config_audit="false"
ENV npm_config_cache="/var/cache/shipoff/npm"
ENV npm_config_fund="false"
ENV npm_config_update_notifier="false"
WORKDIR /app

FROM base AS deps
ARG TARGETARCH
COPY ["package-lock.json", "package.json", "/app/"]
WORKDIR /app
RUN --mount=type=cache,id=team/app/npm/$TARGETARCH,target=/var/cache/shipoff/npm,sharing=locked --mount=type=secret,id=API_TOKEN,env=API_TOKEN --mount=type=secret,id=VITE_TITLE,env=VITE_TITLE --mount=type=secret,id=operator.HTTPS_PROXY,env=HTTPS_PROXY --mount=type=secret,id=operator.PIP_CERT,target=/run/shipoff/PIP_CERT,mode=0444 ["/usr/bin/env", "SHIPOFF_VARIABLES=1111111111111111,2222222222222222", "npm", "ci", "--include=dev", "--no-audit", "--no-fund"]

FROM deps AS build
ARG TARGETARCH
COPY [".", "/app/"]
WORKDIR /app
RUN --mount=type=cache,id=team/app/npm/$TARGETARCH,target=/var/cache/shipoff/npm,sharing=locked --mount=type=secret,id=API_TOKEN,env=API_TOKEN --mount=type=secret,id=VITE_TITLE,env=VITE_TITLE --mount=type=secret,id=operator.HTTPS_PROXY,env=HTTPS_PROXY --mount=type=secret,id=operator.PIP_CERT,target=/run/shipoff/PIP_CERT,mode=0444 ["/usr/bin/env", "SHIPOFF_VARIABLES=1111111111111111,2222222222222222", "npm", "run", "build"]

FROM build AS pages
USER 0:0
RUN ["rm", "-rf", "--", "/app/.venv", "/app/node_modules"]
RUN ["/bin/sh", "-c", "set -e; mkdir -p -- \"$2\"; root=\"$(readlink -f -- \"$1\")\"; found=\"$(readlink -f -- \"$3\" || true)\"; if [ -d \"$found\" ]; then case \"$found/\" in \"$root\"/*) mkdir -p -- \"$4\"; cp -a -- \"$found/.\" \"$4/\";; esac; fi; if [ ! -f \"$4/index.html\" ]; then cd -- \"$root\"; find . \"(\" -name .git -o -name node_modules \")\" -prune -o -name index.html -type f -print | head -n 20 | while IFS= read -r page; do mkdir -p -- \"$2/${page%/*}\"; : >\"$2/$page\"; done; fi", "sh", "/app", "/shipoff/output", "/app/dist", "/shipoff/output/dist"]

FROM scratch AS files
COPY --from=pages /shipoff/output /
