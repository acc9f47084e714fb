#!/bin/sh
# Makes sure that what the tests run is there: PostgreSQL's server and client programs, promtool, openssl.
# Installs what is missing by apt where there is apt; elsewhere it says what to install, and fails.
set -eu

# Debian keeps server programs off the PATH; see src/demo/installation.rs for the full search.
server() {
    for folder in $(printf %s "${PGSTREAM_SERVER_BIN:-}" | tr ':' ' ') $(printf %s "$PATH" | tr ':' ' ') \
        "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then return 0; fi
    done
    return 1
}

missing=''
server || missing="$missing postgresql"
for program in pg_dump pg_restore psql; do
    command -v "$program" >/dev/null || { missing="$missing postgresql-client"; break; }
done
# pgbench is part of Debian's client package, and of contrib elsewhere.
command -v promtool >/dev/null || missing="$missing prometheus"
command -v openssl >/dev/null || missing="$missing openssl"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Please install:$missing (PostgreSQL server and client programs, promtool, openssl)." >&2
    exit 1
fi
as_root=''
[ "$(id -u)" -eq 0 ] || as_root=sudo
$as_root apt-get update -qq
# In runlevel 1 the packages start no services of their own: the tests start what they need.
# shellcheck disable=SC2086 # a list of words
$as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
