#!/usr/bin/env bash
# Client: check a handoff, unlearn, pack the update.  client-unlearn.sh HANDOFF.tar FORGET RETAIN OUT.tar [unlearn options]
set -euo pipefail
handoff=$1 forget=$2 retain=$3 out=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Nothing is believed before `mpu verify`: it refuses links, unlisted files, anything that was altered, and (--expect) any other kind.
tar --no-same-owner --no-same-permissions -C "$work" -xf "$handoff"
mpu verify "$work/to-client" --expect handoff
mpu unlearn "$work/to-client" --forget "$forget" --retain "$retain" --out "$work/to-server" "$@"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work" -cf "$out.partial" to-server
mv "$out.partial" "$out"
echo "carry $out back to the server; $forget and $retain stay here"
