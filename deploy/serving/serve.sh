# Starts TensorFlow Serving as its flags file says, with whatever flags the container is given, and ends it gently.
#
# The server knows nothing of SIGTERM: as process 1 it ignores it and is killed when the grace is over, as any other process
# it ends at once, with the calls that it has. So this shell is process 1 and lets it serve on for DRAIN_S seconds, more
# than callers take to look its name up again, and then ends it.
set -u
flags=$(grep -v '^#' "${FLAGS_FILE:-/etc/dl_inference/flags.txt}") || exit 1

# shellcheck disable=SC2086 # a flag a line, none with a space
tensorflow_model_server --port=8500 --rest_api_port=8501 --enable_grpc_healthcheck_service=true $flags "$@" &
server=$!

stopping=
stop() {
  [ -z "$stopping" ] || return 0
  stopping=1
  (
    sleep "${DRAIN_S:-10}"
    kill -TERM "$server"
  ) &
}
trap stop TERM INT

# A signal ends a wait, not the server.
status=0
wait "$server" || status=$?
while kill -0 "$server" 2>/dev/null; do
  status=0
  wait "$server" || status=$?
done
# 143 is what a process ends with that SIGTERM ended: it was asked to.
[ -n "$stopping" ] && [ "$status" = 143 ] && exit 0
exit "$status"
