#!/bin/sh
# golden.sh OVI_GOLDEN BACKEND DTYPE DIR [EMULATE]: runs every golden file of a folder; 77: none
# there.
golden=$1 backend=$2 dtype=$3 dir=$4 emulate=${5:+--emulate $5}
[ -d "$dir" ] || { echo "skipped: no $dir"; exit 77; }
set --
for file in "$dir"/*.safetensors "$dir"/*.json "$dir/torch/expected.json"; do
    [ ! -f "$file" ] || set -- "$@" "$file"
done
exec "$golden" --backend "$backend" --dtype "$dtype" $emulate "$@"
