# shellcheck shell=bash
# What the ways of all benches share; `benches/*/ways` source it, with WORK and LIFEBOAT set, and end with `main "$@"`.

LIFEBOAT_RUN=("${LIFEBOAT:?}" --policy "${WORK:?}/lifeboat/lifeboat.toml" --json)
# As the unit and the image that are shipped have it.
export MALLOC_ARENA_MAX=2 XDG_STATE_HOME=$WORK/lifeboat/state

# timed PROGRAM…: one program of the way.
timed() { /usr/bin/time -q -a -o "$WORK/members" -f '%M %U %S' "$@"; }

# lifeboat_init: a new repository; stdin has the sources of the policy.
lifeboat_init() {
    rm -rf "$WORK/lifeboat"
    mkdir "$WORK/lifeboat"
    "${LIFEBOAT_RUN[@]}" init --store fs --root "$WORK/lifeboat/repository" --keys "$WORK/lifeboat/keys" --stack bench
    cat >>"$WORK/lifeboat/lifeboat.toml"
}
lifeboat_dump() { timed "${LIFEBOAT_RUN[@]}" backup >"$WORK/lifeboat/backup.json"; }
lifeboat_again() { lifeboat_dump; }
lifeboat_made() { jq -r 'if .status == "complete" then .bytes_added else error(.status) end' "$WORK/lifeboat/backup.json"; }

# lifeboat_restore PASSWORD INTO: everything, into another server.
lifeboat_restore() {
    LIFEBOAT_INTO_PASSWORD=$1 timed "${LIFEBOAT_RUN[@]}" restore latest --yes bench \
        --identity "$WORK/lifeboat/keys/identity.txt" --into "$2"
}

# main WAY_VERB [ARGUMENT…]: what comes before is not measured, nor what was made. Leaves in WORK: `wall` (microseconds),
# `members` (for each program KiB of peak memory and CPU seconds, user and system) and `bytes` (what the way wrote).
main() {
    local name=$1 way=${1%_*} verb=${1##*_} began ended
    shift
    [[ $(type -t "${way}_before_$verb") != function ]] || "${way}_before_$verb" "$@"
    rm -f "$WORK"/{wall,members,bytes}
    began=${EPOCHREALTIME/[.,]/}
    "$name" "$@"
    ended=${EPOCHREALTIME/[.,]/}
    echo $((ended - began)) >"$WORK/wall"
    echo 0 >"$WORK/bytes"
    [[ $verb == load ]] || "${way}_made" | cut -f 1 >"$WORK/bytes"
}
