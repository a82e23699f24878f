#!/usr/bin/env bash
# Decrypt a file from the drop; nothing is left if it was altered.  receive.sh DROP/FILE.tar.age KEY
set -euo pipefail
sealed=$1 key=$2
out=$(basename "$sealed" .age)
rm -f -- "$out"
# age writes what it has authenticated so far: a file that ends in an error is removed again.
age --decrypt -i "$key" -o "$out" "$sealed" || { rm -f -- "$out"; echo "receive.sh: $out: damaged on its way, or not for this key: ask for it again" >&2; exit 1; }
