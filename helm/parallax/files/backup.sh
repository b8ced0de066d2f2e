#!/bin/sh
# Dumps the database into a file of BACKUP_FOLDER, reads the file back, and removes all but the newest BACKUP_KEEP dumps. What the
# backup's CronJob runs. Which database is said by libpq's own variables (PGHOST, PGDATABASE, PGUSER, ...); the password may stand
# in a file that BACKUP_PASSWORD_FILE names.
set -eu

folder=${BACKUP_FOLDER:?the folder for the dumps}
keep=${BACKUP_KEEP:-14}
case $keep in
    '' | *[!0-9]* | 0)
        echo "BACKUP_KEEP must be a number above 0, not '$keep'" >&2
        exit 2
        ;;
esac
if [ -n "${BACKUP_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$BACKUP_PASSWORD_FILE")
    export PGPASSWORD
fi

# The name sorts by time. What is not finished has another ending, so a dump that was cut off is never taken for one.
name=$folder/parallax-$(date -u +%Y%m%dT%H%M%SZ)-$$.dump
trap 'rm -f "$name.partial"' EXIT
pg_dump --format=custom --no-password --file "$name.partial"
entries=$(pg_restore --list "$name.partial" | grep -c 'TABLE DATA')
mv "$name.partial" "$name"

ls -1 "$folder" | grep '^parallax-.*\.dump$' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do
    rm -f "$folder/$old"
done
echo "wrote $name: $entries tables, $(wc -c <"$name") bytes; $(ls -1 "$folder" | grep -c '^parallax-.*\.dump$') dumps are kept"
