# shellcheck shell=bash
# What the benches share: a program to measure, turns and their figures, and the page. Source it after fixtures/lib.sh;
# it runs nothing by itself. A bench sets WORK first, a folder that it may fill and
# remove.
#
# FIGURES has a line a turn: job, way, variant (threads, or -), seconds, CPU seconds of the way's programs and of the
# server, MiB of all its programs at their peaks, bytes written, requests.

FIGURES=$WORK/figures.tsv
MISSED=0 LOST=0
# Peak memory that any job of lifeboat's may have: 256 MiB and three packs of 64 MiB.
MEMORY_MIB_MAX=448

# usage: the comment that the script begins with.
usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

# refuse_to_share CONTAINER…: two runs at a time would measure each other.
refuse_to_share() {
    local container
    for container in "$@"; do
        ! docker inspect "$container" >/dev/null 2>&1 ||
            die "container $container is there: another run? If not: docker rm -fv $container"
    done
    [[ ! -e $WORK || -e $WORK/.bench ]] || die "$WORK exists and was not made by this script"
}

# ensure_lifeboat: the program that is measured, a fresh build unless LIFEBOAT names one.
ensure_lifeboat() {
    if [[ -z ${LIFEBOAT:-} ]]; then
        ensure_rust
        say "building lifeboat (release)"
        (cd "$ROOT" && cargo build --release --locked --quiet)
        LIFEBOAT=${CARGO_TARGET_DIR:-$ROOT/target}/release/lifeboat
    fi
    LIFEBOAT=$(realpath -e "$LIFEBOAT") || die "there is no $LIFEBOAT"
}

begin_work() {
    mkdir -p "$WORK"
    touch "$WORK/.bench"
    : >"$FIGURES"
}

container_address() { docker inspect -f '{{.NetworkSettings.IPAddress}}' "$1"; }

# container_ticks CONTAINER: CPU time that all its processes and their ended children have had, in hundredths of a second.
container_ticks() {
    local pid ticks=0 stat
    for pid in $(docker top "$1" -eo pid | tail -n +2); do
        # The name, in brackets, may hold spaces.
        read -ra stat < <(sed 's/^.*) //' "/proc/$pid/stat" 2>/dev/null) || continue
        ticks=$((ticks + stat[11] + stat[12] + stat[13] + stat[14]))
    done
    echo $((ticks * 100 / $(getconf CLK_TCK)))
}

# --- turns --------------------------------------------------------------------------------------

# keep JOB WAY VARIANT SERVER_TICKS [REQUESTS]: the figures of a turn that `ways` has just ended.
keep() {
    awk -v OFS='\t' -v job="$1" -v way="$2" -v variant="$3" -v server="$4" -v requests="${5:--}" \
        -v wall="$(<"$WORK/wall")" -v bytes="$(<"$WORK/bytes")" \
        '{ kib += $1; cpu += $2 + $3 }
        END { print job, way, variant, wall / 1e6, cpu, server / 100, kib / 1024, bytes, requests }' \
        "$WORK/members" >>"$FIGURES"
    say "$(tail -n 1 "$FIGURES" |
        awk -v round="$ROUND" '{ printf "  %d  %-9s %-14s %-2s %7.2f s", round, $1, $2, $3, $4 }')"
}

# best JOB WAY: the variant with the quickest turn.
best() { awk -v job="$1" -v way="$2" '$1 == job && $2 == way' "$FIGURES" | sort -g -k 4,4 | awk 'NR == 1 { print $3 }'; }

# column JOB WAY FIELD: that field of all turns of the best variant, sorted.
column() {
    awk -F '\t' -v job="$1" -v way="$2" -v variant="$(best "$1" "$2")" -v field="$3" \
        '$1 == job && $2 == way && $3 == variant { print $field }' "$FIGURES" | sort -g
}
median() { column "$@" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
least() { column "$@" | head -n 1; }
most() { column "$@" | tail -n 1; }

# --- the page -----------------------------------------------------------------------------------

mb() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1e6 }'; }
divide() { awk -v a="$1" -v b="$2" 'BEGIN { print a / b }'; }
number() { "$@" | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1; }

# turn_row TEXT TITLE JOB WAY: a line of the table of turns. A load writes nothing that would be counted.
turn_row() {
    local made=- load='load|restore|proof'
    [[ $3 =~ ^($load)$ ]] || made=$(mb "$(median "$3" "$4" 8)")
    printf '| %s | %s | %.2f (%.2f–%.2f) | %.1f + %.1f | %.0f | %s |' "$1" "$2" "$(median "$3" "$4" 4)" \
        "$(least "$3" "$4" 4)" "$(most "$3" "$4" 4)" "$(median "$3" "$4" 5)" "$(median "$3" "$4" 6)" \
        "$(most "$3" "$4" 7)" "$made"
}

# is_within FOUND least|most LIMIT
is_within() { awk -v found="$1" -v kind="$2" -v limit="$3" 'BEGIN { exit !(kind == "least" ? found >= limit : found <= limit) }'; }

targets_head() { printf '\n| target | against | wanted | held | found | |\n|---|---|---|---|---|---|\n'; }

# target_row JOB AGAINST WANTED HELD FOUND least|most UNIT: what is wanted, and what no change may fall behind.
target_row() {
    local verdict=met sign='≥'
    [[ $6 == least ]] || sign='≤'
    is_within "$5" "$6" "$3" || {
        verdict='**missed**'
        MISSED=$((MISSED + 1))
    }
    is_within "$5" "$6" "$4" || {
        verdict='**lost**'
        LOST=$((LOST + 1))
    }
    printf '| %s | %s | %s %s%s | %s%s | %.1f%s | %s |\n' "$1" "$2" "$sign" "$3" "$7" "$4" "$7" "$5" "$7" "$verdict"
}

memory_row() {
    target_row 'peak memory, all jobs' '256 MiB + 3 packs' "$MEMORY_MIB_MAX" "$MEMORY_MIB_MAX" \
        "$(awk -F '\t' '$2 == "lifeboat" && $7 > most { most = $7 } END { print most }' "$FIGURES")" most ' MiB'
}

# judge CHECK: the exit code of the bench, after what was missed and lost.
judge() {
    ((MISSED == 0)) || say "$MISSED targets were missed"
    ((LOST == 0)) || say "$LOST of what was held is lost"
    [[ $1 == no ]] || ((LOST == 0))
}

machine() {
    printf '## %s\n\n%s, %s processors (%s), %s GiB of memory, load %s before the first turn.\n' \
        "$("$LIFEBOAT" --version), $(date -u +%F)" "$(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)" \
        "$(nproc)" "$(lscpu | sed -n 's/^Model name: *//p' | head -n 1)" \
        "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(cut -d ' ' -f 1 /proc/loadavg)"
}
