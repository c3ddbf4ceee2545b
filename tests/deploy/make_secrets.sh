#!/bin/sh
# Write the secrets of compose.yaml into ./secrets, each for its owner alone.
#
#   sh make_secrets.sh                       asks for the dashboard's password
#   sh make_secrets.sh < password.txt        or reads it from a file
#
# CADDY: what hashes a password (default: the proxy's image). HOST, PORT: of Postgres, for workers.
set -eu
umask 077
CADDY=${CADDY:-docker run --rm --interactive caddy:2.11 caddy}

draw() { # 40 letters and digits that nobody guesses
	head -c 20 /dev/urandom | od -A n -t x1 | tr -d ' \n'
}

if [ -e secrets ]; then
	echo "error: secrets/ exists, and a database keeps its password; remove both to begin anew" >&2
	exit 2
fi
if [ -t 0 ]; then
	printf 'password of the dashboard (user genstudy): ' >&2
	stty -echo
	trap 'stty echo' EXIT
fi
IFS= read -r password
if [ -t 0 ]; then
	stty echo
	echo >&2
fi
hash=$(printf '%s\n' "$password" | $CADDY hash-password)

mkdir secrets
printf '%s' "$hash" > secrets/dashboard_password_hash
draw > secrets/dashboard_token
draw > secrets/postgres_password
cat > secrets/pg_service.conf <<EOF
[genstudy]
host=${HOST:-postgres}
port=${PORT:-5432}
dbname=genstudy
user=genstudy
password=$(cat secrets/postgres_password)
EOF
echo "GENSTUDY_UID=$(id -u)" > .env
