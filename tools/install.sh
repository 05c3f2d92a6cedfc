#!/bin/sh
# Sees to it that PostgreSQL's server binaries, version 15 or newer, are here,
# and a C compiler, which Go's race detector needs. Only PostgreSQL's binaries are
# wanted: no cluster is made and no server is started. With a word it sees to the
# compiler and to that program instead: spin, which checks the model of the protocol,
# or chromium, in which tests look at the pages.
set -eu

if ! command -v cc >/dev/null 2>&1 && ! command -v gcc >/dev/null 2>&1; then
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		echo "A C compiler is not installed here. Install it with:" >&2
		echo "  sudo apt-get install -y gcc libc6-dev" >&2
		exit 2
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null
fi

if [ -n "${1:-}" ]; then
	if command -v "$1" >/dev/null 2>&1; then
		exit 0
	fi
	if [ "$(uname -s)" = Darwin ]; then
		if [ "$1" = chromium ] && [ -d "/Applications/Google Chrome.app" ]; then
			exit 0
		fi
		echo "$1 is not installed here. Install it with:" >&2
		echo "  brew install $1" >&2
		exit 2
	fi
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		echo "$1 is not installed here. Install it with:" >&2
		echo "  sudo apt-get install -y $1" >&2
		exit 2
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
	exit 0
fi

for postgres in postgres /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
	/opt/homebrew/opt/postgresql@*/bin/postgres /usr/local/opt/postgresql@*/bin/postgres; do
	path=$(command -v "$postgres" 2>/dev/null) || continue
	major=$("$path" --version | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
	if [ "${major:-0}" -ge 15 ]; then
		exit 0
	fi
done

if [ "$(uname -s)" = Darwin ]; then
	echo "PostgreSQL 15 or newer is not installed here. Install it with:" >&2
	echo "  brew install postgresql@16" >&2
	exit 2
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "PostgreSQL 15 or newer is not installed here. Install it with:" >&2
	echo "  sudo apt-get install -y postgresql" >&2
	exit 2
fi

echo "installing PostgreSQL's binaries"
# Debian's package makes and starts a cluster on port 5432 unless told not to.
mkdir -p /etc/postgresql-common
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
	echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends postgresql >/dev/null
