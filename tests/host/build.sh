# Sourced by the scripts beside it: builds testhost and names it in $testhost.
# Concurrent callers take turns, and a running program is never overwritten.
# shellcheck shell=bash
if [ "$(id -u)" != 0 ]; then
  echo "testhost: a test host needs root (for /dev/kvm, mounts, and every file's ownership)" >&2
  exit 125
fi
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if ! command -v go >/dev/null; then
  PATH=$PATH:/usr/local/go/bin
fi
command -v go >/dev/null || { echo "testhost: Go is needed to build the test host" >&2; exit 125; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/runv/testhost
mkdir -p "$cache"
testhost=$cache/testhost
(
  flock 9
  CGO_ENABLED=0 go -C "$here/testhost" build -trimpath -o "$testhost.new" . || exit
  if cmp -s "$testhost.new" "$testhost"; then
    rm "$testhost.new"
  else
    mv "$testhost.new" "$testhost"
  fi
) 9>"$cache/build.lock" >&2 || exit 125
