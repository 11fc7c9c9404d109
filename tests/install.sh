#!/bin/sh
# Installs what some tests drive: a browser, PostgreSQL, nginx, openssl and npm, Debian's own; by npm the clients of
# tests/app/clients and what builds the page. Where this is not root with apt, or without a network, those tests skip.
set -eu
here=$(dirname "$0")

packages() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
  [ -x /usr/bin/chromium ] && [ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] && command -v nginx >/dev/null &&
    command -v openssl >/dev/null && command -v npm >/dev/null && return 0
  export DEBIAN_FRONTEND=noninteractive
  mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
  wanted="chromium fonts-noto-cjk postgresql nginx-light openssl $(command -v npm >/dev/null || echo nodejs npm)"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted >/dev/null 2>&1 ||
    echo "warning: apt-get could not install $wanted: the tests that drive them skip" >&2
}

node_modules() {
  command -v npm >/dev/null || return 0
  [ "$1/node_modules/ready" -nt "$1/package-lock.json" ] && return 0
  (cd "$1" && npm ci --silent --no-audit --no-fund && touch node_modules/ready) ||
    echo "warning: npm could not install what $1 asks for: the tests that need it skip" >&2
}

packages
node_modules "$here/app/clients"
node_modules "$here/../app/web"
