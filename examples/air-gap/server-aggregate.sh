#!/usr/bin/env bash
# Server: unpack an update and take it into the model.  server-aggregate.sh UPDATE.tar SECRET MODEL OUT [aggregate options]
set -euo pipefail
update=$1 secret=$2 model=$3 out=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar --no-same-owner --no-same-permissions -C "$work" -xf "$update"
mpu verify "$work/to-server" --expect update
mpu aggregate "$work/to-server" --secret "$secret" --model "$model" --out "$out" "$@"
