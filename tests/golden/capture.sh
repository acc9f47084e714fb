#!/bin/sh
# Captures golden streams from the server that PGHOST, PGPORT and PGUSER name. See README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
run() { psql --no-psqlrc --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1 "$@"; }

number=$(run --dbname=postgres --command='SHOW server_version_num')
server=$(run --dbname=postgres --command='SHOW server_version')
major=$((number / 10000))
database=pgstream_golden
run --dbname=postgres --command="DROP DATABASE IF EXISTS $database" 2>/dev/null
run --dbname=postgres --command="CREATE DATABASE $database TEMPLATE template0 ENCODING 'UTF8'"
export PGDATABASE=$database PGCLIENTENCODING=UTF8 PGTZ=UTC PGOPTIONS='-c client_min_messages=warning'

# Between them, every protocol version in both formats, and the oldest and newest server.
case $major in
    14) variants="v1-binary v2-text" ;;
    15) variants="v1-text v2-binary v3-text" ;;
    16 | 17) variants="v4-text" ;;
    18) variants="v4-binary" ;;
    *) variants="v1-text" ;;
esac

run --file="$here/schema.sql"
for variant in $variants; do
    slot=golden_$(echo "$variant" | tr - _)
    run --command="SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')" >/dev/null
done
run --set=dsn="host=$PGHOST port=$PGPORT user=$PGUSER dbname=$database" \
    --file="$here/workload.sql" >/dev/null

for variant in $variants; do
    slot=golden_$(echo "$variant" | tr - _)
    version=${variant#v}
    version=${version%%-*}
    options="'proto_version', '$version', 'publication_names', '\"Gold \"\"en\"\" it''s\"'"
    if [ "$major" -ge 14 ]; then options="$options, 'messages', 'true'"; fi
    case $variant in *-binary) options="$options, 'binary', 'true'" ;; esac
    case $version in
        1) ;;
        2 | 3) options="$options, 'streaming', 'on'" ;;
        *) options="$options, 'streaming', 'parallel'" ;;
    esac
    {
        echo "# server $server: $options"
        run --command="SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('$slot', NULL, NULL, $options)"
    } >"$here/$major-$variant.hex"
    run --command="SELECT pg_drop_replication_slot('$slot')" >/dev/null
done
run --command="SELECT pg_replication_origin_drop('golden origin')" >/dev/null
run --dbname=postgres --command="DROP DATABASE $database"
wc -c "$here/$major"-*.hex
