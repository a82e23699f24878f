#!/usr/bin/env bash
# Server: publish copies for one client as a tar file.  server-handoff.sh MODEL BASE SECRET CLIENT OUT.tar [perturb options]
set -euo pipefail
model=$1 base=$2 secret=$3 client=$4 out=$5
shift 5
# The archive says nothing about the machine it was made on: no owner, no times.
mpu perturb "$model" --base "$base" --secret "$secret" --client "$client" --handoff "${out%.tar}" --pack "$out" "$@"
rm -r -- "${out%.tar}"  # the tar file holds the same
echo "carry $out to $client"
