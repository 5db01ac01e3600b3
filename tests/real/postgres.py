"""A script that runs PostgreSQL and kills it in the middle.

Law: its output is the same on every file system.  The script runs as root and starts the installed
server as `postgres`.
"""

from __future__ import annotations

POSTGRES = """
mkdir pg && chown postgres pg
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
socket=$(as mktemp -d)
start() { as "$bin/pg_ctl" -D pg -w -o "-k $socket -h ''" -l "$socket/log" start > /dev/null; }
ask() { as "$bin/psql" -h "$socket" -Atqc "$1" postgres; }
check() {
    ask "select bt_index_parent_check(c.oid, true) from pg_index i
        join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
        where a.amname = 'btree' and c.relpersistence = 'p'" | sort -u
    ask "select (select sum(abalance) from pgbench_accounts) = sum(delta),
        (select sum(bbalance) from pgbench_branches) = sum(delta),
        (select sum(tbalance) from pgbench_tellers) = sum(delta), count(*) >= 2000
        from pgbench_history"
    ask 'select count(*) from pgbench_accounts'
}
as "$bin/initdb" -k -D pg > /dev/null
start
as "$bin/pgbench" -h "$socket" -q -i -s 4 postgres 2> /dev/null
as "$bin/pgbench" -h "$socket" -c 4 -j 2 -t 500 --random-seed 7 postgres > /dev/null 2>&1
ask 'create extension amcheck'
ask 'select count(*) from pgbench_history'
check
as "$bin/pgbench" -h "$socket" -n -c 4 -j 2 -T 60 postgres > /dev/null 2>&1 & load=$!
sleep 2
kill -9 "$(head -n 1 pg/postmaster.pid)"
wait $load || echo killed
tries=0; until start 2> /dev/null; do tries=$((tries + 1)); [ $tries -lt 50 ]; sleep 0.2; done
grep -q 'automatic recovery in progress' "$socket/log"
check
as "$bin/pg_ctl" -D pg -w -m fast stop > /dev/null
as "$bin/pg_checksums" -c -D pg > /dev/null
as rm -r "$socket"
"""
