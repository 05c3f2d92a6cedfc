#!/bin/sh
# Checks the model of the protocol, docs/protocol/delivery.pml, with spin: every
# property by an exhaustive search that must find nothing, and every mistake made
# on purpose by one that must find what it breaks.
set -eu
cd "$(dirname "$0")/.."
model=$PWD/docs/protocol/delivery.pml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# search WANT PROPERTY [OPTION...] makes one search and prints its line of the table.
search() {
	want=$1 property=$2
	shift 2
	here=$(mktemp -d "$work/search.XXXXXX")
	if [ "$property" = 2 ]; then
		compile=-DNFAIR=3 how="-a -f" # cycles in which nobody is kept waiting who could go on
	else
		compile=-DSAFETY how=-E
	fi
	quick=-O2
	[ "$want" = holds ] || quick=-O0 # what finds something ends soon
	# What goes wrong here shows in what is not in out.
	# shellcheck disable=SC2086 # a list of options
	(
		cd "$here" && : >out &&
			spin -a -DPROPERTY="$property" "$@" "$model" >log 2>&1 &&
			cc $quick -w -DMEMLIM=1900 $compile -o pan pan.c >>log 2>&1 &&
			./pan -w22 $how >out 2>>log
	) || true
	# A search that was cut short, or never began, proves nothing.
	result="not searched"
	case $(sed -n 's/.*errors: //p' "$here/out") in
	0) grep -q -e 'not completed' -e 'too small' "$here/out" || result=holds ;;
	[1-9]*) grep -q -e "assertion violated (($property!=" -e 'acceptance cycle' "$here/out" && result="does not hold" ;;
	esac
	verdict=ok
	if [ "$result" != "$want" ]; then
		verdict=WRONG
		: >"$work/wrong"
		[ "$result" != "not searched" ] || cat "$here/log" >&2
	fi
	printf '%-8s %-52s %10s  %-13s  %s\n' "$property" "$*" "$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$here/out")" "$result" "$verdict"
	rm -rf "$here"
}

holds() { search holds "$@"; }
breaks() { search "does not hold" "$@"; }

mistakes() {
	breaks 1 -DBLIND_RESEND -DHOLD
	breaks 1 -DRESEND_TWICE
	breaks 1 -DREOPEN_HELD -DREOPENS=1 -DHOLD
	breaks 1 -DREOPEN_FORGETS -DREOPENS=1
	breaks 2 -DNO_LAPSE -DCALLS=2
	breaks 2 -DWAIT_FOR_EVER -DLOOK_UP -DBLIND_LOOK_UP -DCALLS=1
	breaks 3 -DNO_BEGIN_BY_CHECK -DCANCELS=1
	breaks 3 -DCLOCK_AFTER_CLAIM -DCANCELS=1
	breaks 3 -DNO_WAIT_ON_CANCEL -DCANCELS=1
	breaks 3 -DNO_GATE -DCANCELS=1
	breaks 3 -DLAPSE_EARLY -DCANCELS=1
	breaks 3 -DSTALL_IN_WINDOW -DCANCELS=1
	breaks 4 -DNO_FENCE
	breaks 5 -DBLIND_RESEND
	breaks 5 -DNO_FENCE
	breaks 6 -DSETTLE_ANY
	breaks 6 -DFORGET_PROOF
	breaks 6 -DOWN_ANSWER_IS_NO_PROOF
	breaks 7 -DLOOK_ONCE -DLOOK_UP -DCALLS=2
	breaks 7 -DNO_WITNESS -DLOOK_UP -DCALLS=2
	breaks 8 -DSKIP_BY_GUESS -DCALLS=2
}

printf '%-8s %-52s %10s  %s\n' property options states result
{ # on the second core
	holds 2 -DCALLS=2 -DCANCELS=1
	holds 2 -DCALLS=1 -DLOOK_UP
	holds 2 -DCALLS=1 -DLOOK_UP -DBLIND_LOOK_UP
	echo "Mistakes made on purpose:"
	mistakes
} >"$work/second" &
holds 1 -DREOPENS=1
holds 1 -DREOPENS=1 -DHOLD
holds 3 -DCALLS=2 -DCANCELS=1 -DPAUSES=1 -DREOPENS=1
holds 4
holds 5
holds 6
holds 7 -DCALLS=2 -DLOOK_UP
holds 8 -DCALLS=2 -DREOPENS=1
wait
cat "$work/second"
[ ! -e "$work/wrong" ]
