#!/bin/sh
# Installs what some tests drive: a browser, PostgreSQL and nginx, Debian's own. Where this is not root with apt, those tests skip.
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
[ -x /usr/bin/chromium ] && [ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] && command -v nginx >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk postgresql nginx-light >/dev/null 2>&1 ||
  echo "warning: apt-get could not install chromium, postgresql and nginx: the tests that drive them skip" >&2
