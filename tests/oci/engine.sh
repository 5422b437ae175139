# Sourced by tests/oci/podman and tests/oci/docker: an image, cases, and a table
# of them. $work is a directory in memory, $runtime the name of the one in use.
# shellcheck shell=bash disable=SC2016

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Makes $work; it goes, with what is mounted there, when leave has run.
enter() {
  [[ -f /sys/fs/cgroup/cgroup.controllers ]] || die "cgroup v2 is needed"
  work=$(mktemp -d /run/runv-oci.XXXXXX)
  trap 'cd /; leave >"$work/leave" 2>&1 || true; umount --recursive --lazy "$work" || true; rmdir "$work"' EXIT
  mount -t tmpfs -o size=1g tmpfs "$work"
  cd "$work" || exit # conmon leaves files in its working directory
  # At the end of its input script types a NUL, which the terminal echoes.
  mkfifo "$work/silence"
  exec 9<>"$work/silence"
}

# What the cases need of files, and an image, which `import OPTION... - box` reads.
image() {
  local root=$work/root
  mkdir -p "$root"/{bin,dev,etc,proc,root,run,sys,tmp,var}
  chmod 1777 "$root/tmp"
  install -m 755 "$(command -v busybox)" "$root/bin/busybox"
  chroot "$root" /bin/busybox --install -s /bin
  printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
  tar -C "$root" -c . | "$@" import --change 'CMD ["sh"]' --change 'ENV PATH=/bin' - box >/dev/null
  rm -rf "$root"
  mkdir "$work/vol" "$work/context"
  echo host >"$work/vol/file"
  printf 'FROM box\nRUN echo "built by $(id -u)" >/built\nCMD cat /built\n' >"$work/context/Containerfile"
}

# try NAME COMMAND...: one case, with its input from $input. Times, ids and the like are made alike.
try() {
  local name=$1 status=0
  shift
  [[ -z ${ONLY:-} || $name =~ $ONLY ]] || return 0
  timeout 120 "$@" >"$work/stdout" 2>"$work/stderr" <"${input:-/dev/null}" || status=$?
  {
    printf '%s ' "$status"
    tr '\n\r\t|' '; ,/' <"$work/stdout" | cut -c1-200
  } | sed -E "s#$runtime#RUNTIME#g; s/[0-9a-f]{64}/ID/; s/Up [0-9a-z ]+ ago/Up/" >"$out/$name"
  tail -n 2 "$work/stderr" >"$out/$name.stderr"
  echo "$name" >>"$out/order"
}

# programs COMMAND...: the cases of programs that end; COMMAND is the engine's
# run with a runtime, which the container's options follow.
programs() {
  local run=("$@")

  try exit-0 "${run[@]}" box true
  try exit-42 "${run[@]}" box sh -c 'exit 42'
  try killed "${run[@]}" box sh -c 'kill -9 $$'
  try no-program "${run[@]}" box /no/such
  try not-executable "${run[@]}" box /etc/passwd
  try bad-option "${run[@]}" --memory nonsense box true
  try user "${run[@]}" --user 1000:1000 box id
  try user-name "${run[@]}" --user user box id
  try group-add "${run[@]}" --group-add 77 box id -G
  try cap-drop "${run[@]}" --cap-drop all box grep Cap /proc/self/status
  try cap-add "${run[@]}" --cap-add SYS_TIME box grep CapEff /proc/self/status
  try no-new-privileges "${run[@]}" --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status
  try seccomp "${run[@]}" box grep Seccomp: /proc/self/status
  try seccomp-unconfined "${run[@]}" --security-opt seccomp=unconfined box grep Seccomp: /proc/self/status
  try read-only "${run[@]}" --read-only box sh -c 'touch /x; touch /tmp/x && echo tmp; touch /run/x && echo run'
  try tmpfs "${run[@]}" --tmpfs /mnt:size=1m,mode=700 box sh -c 'stat -c %a /mnt; dd if=/dev/zero of=/mnt/x bs=1M count=2 || ls -l /mnt | wc -l'
  try volume "${run[@]}" -v "$work/vol:/v" box sh -c 'cat /v/file; echo in >/v/new; cat /v/new'
  try volume-ro "${run[@]}" -v "$work/vol:/v:ro" box sh -c 'cat /v/file; touch /v/y'
  try volume-file "${run[@]}" -v "$work/vol/file:/etc/single:ro" box cat /etc/single
  try volume-named "${run[@]}" -v "named-$runtime:/data" box sh -c 'echo a >/data/x; cat /data/x'
  try ulimit "${run[@]}" --ulimit nofile=123:456 box sh -c 'ulimit -n; ulimit -Hn'
  try cpus "${run[@]}" --cpus 2 box sh -c 'nproc; cat /sys/fs/cgroup/cpu.max'
  try memory "${run[@]}" --memory 128m box cat /sys/fs/cgroup/memory.max
  try out-of-memory "${run[@]}" --memory 64m box tail /dev/zero
  try pids-limit "${run[@]}" --pids-limit 20 box cat /sys/fs/cgroup/pids.max
  try hostname "${run[@]}" --hostname name box sh -c 'hostname; cat /etc/hostname; grep -c name /etc/hosts'
  try env "${run[@]}" -e A=b -e HOME=/x box sh -c 'echo $A $HOME $container'
  try workdir "${run[@]}" -w /tmp/new box pwd
  try entrypoint "${run[@]}" --entrypoint echo box entry argument
  try init "${run[@]}" --init box cat /proc/1/comm
  try stdin sh -c "echo in | $(printf '%q ' "${run[@]}") -i box cat"
  try terminal "${run[@]}" -t box sh -c 'tty; test -t 0 && test -t 1 && test -t 2 && echo all'
  try sysctl "${run[@]}" --sysctl net.ipv4.ip_unprivileged_port_start=80 box cat /proc/sys/net/ipv4/ip_unprivileged_port_start
  try shm-size "${run[@]}" --shm-size 1m box sh -c 'df -k /dev/shm | tail -n 1 | tr -s " " | cut -d" " -f2'
  try device "${run[@]}" --device /dev/fuse box stat -c %F,%t,%T /dev/fuse
  try privileged "${run[@]}" --privileged box true
  try masked "${run[@]}" box sh -c 'wc -c </proc/kcore; ls /sys/firmware | wc -l; echo 1 >/proc/sys/kernel/panic'
  try oom-score-adj "${run[@]}" --oom-score-adj 100 box cat /proc/self/oom_score_adj
}

# What the container runs that stays.
# shellcheck disable=SC2034
stays='trap "echo TERM; exit 3" TERM; trap "echo USR1" USR1; echo started; while :; do sleep 0.2; done'

# stay ENGINE CONTAINER: the cases of a container that runs $stays and goes at the end.
stay() {
  local engine=$1 c=$2

  try ps "$engine" ps --format '{{.State}}' --filter "name=$c"
  try logs "$engine" logs "$c"
  try exec "$engine" exec "$c" sh -c 'echo exec; exit 7'
  try exec-user "$engine" exec -u user -e X=y -w /tmp "$c" sh -c 'id -u; pwd; echo $X'
  try exec-no-program "$engine" exec "$c" /no/such
  try exec-not-executable "$engine" exec "$c" /etc/passwd
  try exec-i sh -c "echo in | $engine exec -i $c cat"
  input=$work/silence try exec-it script -qec "$engine exec -it $c sh -c 'test -t 0 && test -t 1 && echo terminal'" /dev/null
  try exec-d "$engine" exec -d "$c" sh -c 'echo x >/tmp/detached'
  sleep 2
  try exec-d-done "$engine" exec "$c" cat /tmp/detached
  try stats "$engine" stats --no-stream --format '{{.Name}}' "$c"
  try inspect "$engine" inspect -f '{{.State.Status}} {{.HostConfig.Memory}}' "$c"
  echo copied >"$work/copied"
  try cp-in "$engine" cp "$work/copied" "$c:/tmp/copied"
  try cp-in-done "$engine" exec "$c" cat /tmp/copied
  try cp-out sh -c "$engine cp $c:/etc/group - | tar -xOf -"
  try pause "$engine" pause "$c"
  try paused "$engine" ps --format '{{.State}}' --filter "name=$c"
  try unpause "$engine" unpause "$c"
  try update "$engine" update --cpus 1 --memory 200m --memory-swap 400m "$c"
  try updated "$engine" exec "$c" cat /sys/fs/cgroup/memory.max
  try kill "$engine" kill -s USR1 "$c"
  sleep 2
  try kill-log "$engine" logs "$c"
  try stop "$engine" stop -t 60 "$c"
  try stopped "$engine" inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$c"
  try start "$engine" start "$c"
  try restart "$engine" restart -t 60 "$c"
  sleep 1
  try attach sh -c "{ sleep 3; $engine kill -s TERM $c >/dev/null; } & $engine attach --no-stdin --sig-proxy=false $c"
  try wait "$engine" wait "$c"
  try ended "$engine" inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$c"
  try rm "$engine" rm "$c"
}

# compare NAME=RUNTIME...: runs cases with each, and prints the table; the
# reasons for people go to standard error.
compare() {
  local pair name file first=$work/results/${1%%=*}
  for pair in "$@"; do
    runtime=${pair%%=*} out=$work/results/${pair%%=*}
    mkdir -p "$out"
    cases
  done
  mapfile -t names <"$first/order"
  printf '| command |'; printf ' %s |' "${@%%=*}"
  printf '\n| --- |'; for _ in "$@"; do printf ' --- |'; done
  printf '\n'
  for name in "${names[@]}"; do
    printf '| %s |' "$name"
    for pair in "$@"; do
      file=$work/results/${pair%%=*}/$name
      if [[ $pair != "$1" ]] && cmp -s "$first/$name" "$file"; then
        printf ' = |'
      else
        printf ' `%s` |' "$(sed 's/ *;* *$//' "$file")"
      fi
    done
    printf '\n'
  done
  for pair in "${@:2}"; do
    for name in "${names[@]}"; do
      file=$work/results/${pair%%=*}/$name
      cmp -s "$first/$name" "$file" || sed "s#^#${pair%%=*} $name: #" "$file.stderr" >&2
    done
  done
}
