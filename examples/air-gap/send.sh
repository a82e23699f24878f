#!/usr/bin/env bash
# Encrypt a tar file for the other party, into the drop.  send.sh FILE.tar RECIPIENT.pub DROP
set -euo pipefail
file=$1 recipient=$2 drop=$3
# Another name first: what is copied halfway must not look complete.
age --encrypt -R "$recipient" -o "$drop/.$(basename "$file").age" "$file"
mv -- "$drop/.$(basename "$file").age" "$drop/$(basename "$file").age"
