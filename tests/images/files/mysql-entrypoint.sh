#!/bin/bash
# In the shape of the official image's entrypoint: ask the server for its settings through a pipeline, give up root,
# make the data folder, run a temporary server that listens on a socket only, feed it SQL through pipes and the
# scripts of /docker-entrypoint-initdb.d, stop it, and become the server.
set -eo pipefail
shopt -s nullglob

: "${MARIADB_DATABASE:=lab}" "${MARIADB_USER:=lab}"

note() { printf '%s [Note] [Entrypoint]: %s\n' "$(date --rfc-3339=seconds)" "$*"; }

get_config() {
    "$1" --verbose --help 2>/dev/null |
        awk -v key="$2" '$1 == key && /^[^ \t]/ { sub(/^[^ \t]+[ \t]+/, ""); print; exit }' || true
}

process_sql() { mariadb --protocol=socket -uroot --socket="$SOCKET" "$@"; }

start_temporary_server() {
    "$@" --skip-networking --socket="$SOCKET" --wsrep-on=OFF --expire-logs-days=0 </dev/null &
    MARIADB_PID=$!
    for i in {60..0}; do
        if mariadb-admin --protocol=socket -uroot --socket="$SOCKET" ping >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    note 'the temporary server did not start'
    exit 1
}

init_files() {
    local f
    for f; do
        case "$f" in
            *.sh) note "sourcing $f"; . "$f" ;;
            *.sql) note "running $f"; process_sql "$MARIADB_DATABASE" < "$f" ;;
            *.sql.gz) note "running $f"; gunzip -c "$f" | process_sql "$MARIADB_DATABASE" ;;
        esac
    done
}

_main() {
    [ "${1:0:1}" = - ] && set -- mariadbd "$@"
    if [ "$1" != mariadbd ]; then exec "$@"; fi
    DATADIR=${MARIADB_DATADIR:-$(get_config "$1" datadir)}
    SOCKET=${MARIADB_SOCKET:-$(get_config "$1" socket)}
    set -- "$@" --datadir="$DATADIR" --socket="$SOCKET" --pid-file="$SOCKET.pid"
    if [ "$(id -u)" = 0 ]; then
        note 'switching to the mysql user'
        mkdir -p "$DATADIR" "$(dirname "$SOCKET")"
        find "$DATADIR" "$(dirname "$SOCKET")" \! -user mysql -exec chown mysql: '{}' +
        export DATADIR SOCKET
        exec setpriv --reuid=mysql --regid=mysql --init-groups -- "$BASH_SOURCE" "$@"
    fi
    if ! [ -d "$DATADIR/mysql" ]; then
        note 'making the data folder'
        mariadb-install-db --datadir="$DATADIR" --auth-root-authentication-method=normal --skip-test-db >/dev/null
        start_temporary_server "$@"
        mariadb-tzinfo-to-sql /usr/share/zoneinfo 2>/dev/null | sed 's/Local time zone must be set--see zic manual page/FCTY/' | head -c 20000 >/dev/null || true
        process_sql <<-EOSQL
			CREATE DATABASE IF NOT EXISTS \`$MARIADB_DATABASE\`;
			CREATE USER IF NOT EXISTS '$MARIADB_USER'@'%';
		EOSQL
        init_files /docker-entrypoint-initdb.d/*
        kill "$MARIADB_PID"
        wait "$MARIADB_PID"
        note 'ready for start up'
    fi
    exec "$@"
}

_main "$@"
