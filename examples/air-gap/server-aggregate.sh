#!/usr/bin/env bash
# Server: check an update and take it into the model.  server-aggregate.sh UPDATE.tar SECRET MODEL OUT [aggregate options]
set -euo pipefail
update=$1 secret=$2 model=$3 out=$4
shift 4
mpu verify "$update" --expect update
mpu aggregate "$update" --secret "$secret" --model "$model" --out "$out" "$@"
