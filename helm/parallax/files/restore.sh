#!/bin/sh
# Restores a dump of backup.sh into an empty database, the newest of BACKUP_FOLDER where no file is named. All or nothing: the
# tables appear in one commit, so a sidecar that is running sees either none of them or all. The fleet notices by itself that
# Postgres went back (its heartbeat did): reads go to Redis, and a backfill is owed. See docs/runbook.md.
set -eu

dump=${1:-}
if [ -z "$dump" ]; then
    folder=${BACKUP_FOLDER:?the folder with the dumps, or a file as the argument}
    newest=$(ls -1 "$folder" | grep '^parallax-.*\.dump$' | sort | tail -n 1)
    if [ -z "$newest" ]; then
        echo "there is no dump in $folder" >&2
        exit 1
    fi
    dump=$folder/$newest
fi
if [ -n "${BACKUP_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$BACKUP_PASSWORD_FILE")
    export PGPASSWORD
fi

tables=$(psql --no-password --no-psqlrc --tuples-only --no-align \
    --command "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
if [ "$tables" != 0 ]; then
    echo "the database has $tables tables already: drop and create it first, or name another one" >&2
    exit 1
fi
pg_restore --single-transaction --exit-on-error --no-password --dbname "${PGDATABASE:?the database}" "$dump"
echo "restored $dump"
