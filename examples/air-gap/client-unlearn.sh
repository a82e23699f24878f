#!/usr/bin/env bash
# Client: check a handoff, unlearn, pack the update.  client-unlearn.sh HANDOFF.tar FORGET RETAIN OUT.tar [unlearn options]
# After an interruption the same line with --resume at its end goes on: nothing that a run has left is removed here.
set -euo pipefail
handoff=$1 forget=$2 retain=$3 out=$4
shift 4
# Nothing is believed before `mpu verify`: it refuses links, unlisted files and anything that was altered.
mpu verify "$handoff" --expect handoff
mpu unlearn "$handoff" --forget "$forget" --retain "$retain" --out "${out%.tar}" --pack "$out" "$@"
rm -r -- "${out%.tar}"  # the tar file holds the same
echo "carry $out back to the server; $forget and $retain stay here"
