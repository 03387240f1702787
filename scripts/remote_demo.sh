#!/usr/bin/env bash
# What a remote is for, shown on a real S3 server on this machine: push this commit's data, clone as a colleague would,
# pull and find nothing to do; then damage an object, see who notices, and heal it. Your remote and .dvc/config are not
# touched: all happens in clones below .s3/, which the next run replaces.
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
root=$PWD demo=$PWD/.s3
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
command -v rclone > /dev/null || { echo "remote_demo.sh: rclone is missing; make remote-demo installs it" >&2; exit 1; }

rm -rf "$demo" && mkdir -p "$demo/server/affine"
rclone serve s3 --config /dev/null --addr 127.0.0.1:0 --dir-cache-time 1s --auth-key demokey,demosecret \
  "$demo/server" 2> "$demo/server.log" &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
for _ in $(seq 100); do
  url=$(grep -o 'http://127.0.0.1:[0-9]*' "$demo/server.log" || true)
  [[ -n $url ]] && break || sleep 0.1
done
export AWS_ACCESS_KEY_ID=demokey AWS_SECRET_ACCESS_KEY=demosecret PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

remote() {  # the remote as .dvc/config's template has it, and not for git to see
  dvc remote add --local --default store s3://affine/store > /dev/null
  dvc remote modify --local store endpointurl "$url"
  dvc remote modify --local store verify true
  dvc remote modify --local store configpath "$root/.dvc/s3.ini"
}

say "1. You: push what dvc.lock names to $url"
git clone --quiet "$root" "$demo/you"
cd "$demo/you" && remote
dvc cache dir --local "$root/.dvc/cache"
dvc push
python -m affine remote-check > "$demo/check.log" || {
  echo "remote_demo.sh: .dvc/cache lacks some of what this commit's dvc.lock names; run make all and commit it first" >&2
  exit 1
}

say "2. A colleague: clone, pull, and nothing is left to do"
git clone --quiet "$root" "$demo/colleague"
cd "$demo/colleague" && remote
dvc pull | tail -n 1
dvc repro | tail -n 1

say "3. A byte of a file flips on the server"
object=$(find "$demo/server/affine/store/files/md5" -type f ! -name '*.dir' | LC_ALL=C sort | sed -n 1p)
printf '\001' | dd of="$object" conv=notrunc status=none
cd "$demo/you"
echo "dvc status -c says:    $(dvc status -c)"
echo "dvc push says:         $(dvc push)"
echo "remote-check says:"
python -m affine remote-check || true

say "4. Heal it from this machine's cache"
python -m affine remote-check --heal | tail -n 1
python -m affine remote-check
say "Everything lies in .s3/; delete it when you like."
