#!/usr/bin/env bash
# Server: publish copies for one client and pack them.  server-handoff.sh MODEL BASE SECRET CLIENT OUT.tar [perturb options]
set -euo pipefail
model=$1 base=$2 secret=$3 client=$4 out=$5
shift 5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mpu perturb "$model" --base "$base" --secret "$secret" --client "$client" --handoff "$work/to-client" "$@"
# No owner, no times: the archive says nothing about the machine it was made on.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work" -cf "$out.partial" to-client
mv "$out.partial" "$out"
echo "carry $out to $client"
