# To be sourced, at the root of the repository: leaves a Docker engine that answers, and BASE_IMAGE.
# Where no engine answers it installs one from Debian, starts it, and at the end stops it and removes its data.
# Where no registry answers the images stand on a base of Debian's packages.

as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo

engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null; }

install_missing() {
  local needed=()
  { command -v dockerd && command -v docker; } >/dev/null || engine_answers >/dev/null || needed+=(docker.io iptables)
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || needed+=(docker-compose)
  command -v mmdebstrap >/dev/null || needed+=(mmdebstrap)
  [ ${#needed[@]} -gt 0 ] || return 0
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
}

run_folder="" data_folder="" engine_pid=""

start_engine() { # one of our own, beside whatever else the machine may run
  run_folder=$(mktemp -d /tmp/dl-docker.XXXXXX) # sockets need a short path
  mkdir -p var
  data_folder=$(mktemp -d "$PWD/var/docker.XXXXXX")
  export DOCKER_HOST="unix://$run_folder/docker.sock"
  $as_root dockerd --host "$DOCKER_HOST" --data-root "$data_folder" --exec-root "$run_folder/exec" \
    --pidfile "$run_folder/pid" --group "$(id -gn)" >"$run_folder/log" 2>&1 &
  engine_pid=$!
  for _ in $(seq 60); do
    engine_answers >/dev/null && return
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 1
  done
  echo "$0: the Docker engine did not start:" >&2
  tail -20 "$run_folder/log" >&2
  return 1
}

stop_engine() {
  [ -n "$engine_pid" ] || return 0
  $as_root kill "$(cat "$run_folder/pid" 2>/dev/null || echo "$engine_pid")" 2>/dev/null || true
  wait "$engine_pid" || true
  $as_root rm -rf "$data_folder" "$run_folder"
}
trap stop_engine EXIT

install_missing
engine_answers >/dev/null || start_engine
echo "Docker engine $(engine_answers)"

if [ -z "${BASE_IMAGE:-}" ]; then
  base=$(sed -n 's/^ARG BASE_IMAGE=//p' deploy/images/Dockerfile)
  if docker image inspect "$base" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$base" >/dev/null 2>&1; then
    BASE_IMAGE=$base
  else
    BASE_IMAGE=$($as_root env DOCKER_HOST="${DOCKER_HOST:-}" deploy/local-base)
  fi
fi
export BASE_IMAGE
echo "base image $BASE_IMAGE"
