#!/usr/bin/env bash
# Gets a snapshot out of this repository with stock tools only: age, zstd, tar, jq, sha256sum, minisign.
# Every entry is written under its path below DIR/<source>/. Nothing in the repository is changed.
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C # names are bytes
umask 077

usage() {
    cat >&2 <<'TEXT'
usage: recover.sh -i IDENTITY -o DIR [-k SIGNER]... [-w WORKDIR] [WHEN]
  IDENTITY  the age identity file (recovery identity); its passphrase is asked for once if it has one
  DIR       a new or empty folder for the result
  SIGNER    the writer's public key (RW…) from your recovery sheet; without it the keys in
            config.json are used, which a thief of the store could have replaced
  WORKDIR   where unpacked chunks go meanwhile (default: DIR/.chunks, removed at the end)
  WHEN      latest (default), or the beginning of a snapshot id; ids are the names in refs/
TEXT
    exit 2
}

identity='' out='' work='' signers=()
while getopts 'i:o:k:w:h' option; do
    case $option in
        i) identity=$OPTARG ;;
        o) out=$OPTARG ;;
        k) signers+=("$OPTARG") ;;
        w) work=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
when=${1:-latest}
if [[ -z $identity || -z $out || $# -gt 1 ]]; then usage; fi

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
die() { printf 'recover.sh: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*" >&2; }
sum() { sha256sum <"$1" | cut -d' ' -f1; }
for tool in age zstd tar jq sha256sum minisign; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
done
[[ -r $identity ]] || die "identity file $identity cannot be read"
mkdir -p -- "$out"
[[ -z $(ls -A -- "$out") ]] || die "$out is not empty"
out=$(cd -- "$out" && pwd)
work=${work:-$out/.chunks}
mkdir -p -- "$work"
work=$(cd -- "$work" && pwd)
[[ ! -e $work/chunks ]] || die "$work holds unpacked chunks of another run: remove them first"

[[ -f $repo/config.json ]] || die "$repo is no repository: config.json is missing"
# config.json, and a config.r1.json and so on for each time that readers changed.
configs=("$repo/config.json")
for config in "$repo"/config.r*.json; do
    if [[ -f $config ]]; then configs+=("$config"); fi
done
for config in "${configs[@]}"; do
    [[ $(jq -r .format "$config") == [123] ]] || die "this script reads formats 1 to 3 only"
done
if ((${#signers[@]} == 0)); then
    while read -r key; do signers+=("$key"); done < <(jq -r '.signers[]' "${configs[@]}" | sort -u)
    say "signer: ${signers[*]} (from config.json: compare it with your recovery sheet)"
fi

# Whether one of the signers signed a file.
signed() {
    local key
    for key in "${signers[@]}"; do
        minisign -Vqm "$1" -x "$1.minisig" -P "$key" >/dev/null 2>&1 && return 0
    done
    return 1
}
for config in "${configs[@]}"; do
    signed "$config" || die "$(basename -- "$config") is not signed by ${signers[*]}"
done

# Whether a signed tombstone says that the commit with these refs was forgotten; tells `why`.
forgotten() {
    local tombstone name
    name=$(basename -- "$1")
    for tombstone in "$repo/tombstones/${name%.r*}".g*.json; do
        [[ -f $tombstone && $(jq -r '.commit.refs // ""' "$tombstone") == "$(sum "$1")" ]] || continue
        signed "$tombstone" || die "$(basename -- "$tombstone") is not signed by ${signers[*]}"
        why=$(jq -r .reason "$tombstone")
        return 0
    done
    return 1
}

# A protected identity is opened here, once: age would ask again for every pack. It stays in memory.
opened=''
if head -c 200 "$identity" | grep -qaE '^(age-encryption\.org/|-----BEGIN AGE ENCRYPTED FILE-----)'; then
    opened=$(age -d "$identity") || die "the identity cannot be opened"
fi
# Prints what a sealed file holds.
unseal() {
    if [[ -n $opened ]]; then printf '%s\n' "$opened" | age -d -i - "$1"; else age -d -i "$identity" "$1"; fi
}

# The newest signed refs that fit WHEN, without what was forgotten. A forged one stops the search: choose another
# snapshot by its id.
refs='' newest='' why=''
for candidate in "$repo"/refs/*.json; do
    name=$(basename -- "$candidate" .json)
    [[ -f $candidate.minisig ]] || continue
    [[ $name =~ \.r[0-9]{1,9}$ ]] || continue
    [[ $when == latest || $name == "$when"* ]] || continue
    # Revisions are numbers: r10 is newer than r9.
    order=$(printf '%s.r%09d' "${name%.r*}" "$((10#${name##*.r}))")
    [[ $order > $newest ]] || continue
    if forgotten "$candidate"; then
        say "forgotten: $name ($why)"
        # Whoever names one by its whole id may have it for as long as its packs are there.
        [[ $when == "${name%.r*}" ]] || continue
    fi
    newest=$order refs=$candidate
done
[[ -n $refs ]] || die "no committed snapshot fits $when"
signed "$refs" || die "$(basename -- "$refs") is not signed by ${signers[*]}"
snapshot=$(jq -r .snapshot "$refs")
[[ $(basename -- "$refs") == "$snapshot.r$(jq -r .revision "$refs").json" ]] \
    || die "$(basename -- "$refs") was signed for another snapshot"
[[ $(jq -r .repository "$refs") == "$(jq -r .repository "$repo/config.json")" ]] \
    || die "the refs belong to another repository"
say "snapshot: $snapshot ($(jq -r .status "$refs"))"

manifest=$repo/manifests/$snapshot.json.zst.age
[[ -f $manifest ]] || die "the manifest is missing"
[[ $(sum "$manifest") == "$(jq -r .manifest "$refs")" ]] || die "the manifest was changed"
unseal "$manifest" | zstd -dqc >"$work/manifest.json" || die "the manifest cannot be opened"
jq -r '.failed[]? | "not in this snapshot: \(.what) (\(.why))"' "$work/manifest.json" >&2
jq -r '.sources[] | .name as $name | .problems[]? | "not whole in this snapshot: \($name): \(.what) (\(.why))"' \
    "$work/manifest.json" >&2

# Every pack of the snapshot: checked by its name, opened, unpacked.
mkdir "$work/chunks"
count=$(jq '.packs | length' "$refs") number=0
while read -r pack; do
    number=$((number + 1))
    file=$repo/packs/${pack:0:2}/$pack.tar.zst.age
    [[ -f $file ]] || die "pack $pack is missing"
    [[ $(sum "$file") == "$pack" ]] || die "pack $pack was changed"
    unseal "$file" | zstd -dqc | tar -x -C "$work" --exclude=PACK-INDEX.json \
        || die "pack $pack cannot be opened"
    say "pack $number of $count"
done < <(jq -r '.packs | keys[]' "$refs")
if ((count > 0)); then
    (cd "$work/chunks" && find . -type f -printf '%f  %f\n' | sha256sum --quiet -c -) \
        || die "a chunk is not what its name says"
fi

# Prints the chunks with the given ids, one after the other.
chunks() {
    (($# == 0)) || (cd "$work/chunks" && printf '%s\0' "$@" | xargs -0 cat --) \
        || die "a chunk is in no pack of this snapshot"
}

# Makes the folder for a file and prints where the file goes. A store may hold both `a` and `a/b`; a file
# system cannot: then `a` is called `a%`. A name too long for a file goes under its hash.
place() {
    local source=$1 path=$2 parent blocked
    if ((${#path} > 3000)) || [[ $path =~ [^/]{255} ]]; then
        mkdir -p "$out/$source%long-names"
        printf '%s/%s' "$out/$source%long-names" "$(printf '%s' "$path" | sha256sum | cut -d' ' -f1)"
        return
    fi
    parent=$(dirname -- "$out/$source/$path")
    while ! mkdir -p -- "$parent" 2>/dev/null; do
        blocked=$parent
        while [[ ! -f $blocked ]]; do
            blocked=$(dirname -- "$blocked")
            [[ $blocked != "$out" ]] || die "cannot make $parent"
        done
        mv -- "$blocked" "$blocked%"
    done
    if [[ -d $out/$source/$path ]]; then path=$path%; fi
    printf '%s' "$out/$source/$path"
}

# Entries: an entry list is JSON lines; a body is chunks, or chunks that list chunks.
bad=0
while IFS=$'\t' read -r source entries list; do
    # shellcheck disable=SC2086 # ids are words
    chunks $list >"$work/entries.jsonl"
    done=0
    while IFS=$'\t' read -r want path kind ids; do
        [[ $path != /* && "/$path/" != */../* ]] || die "entry path $path climbs"
        target=$(place "$source" "$path")
        # shellcheck disable=SC2086
        if [[ $kind == lists ]]; then ids=$(chunks $ids); fi
        # shellcheck disable=SC2086
        chunks $ids >"$target"
        if [[ $(sum "$target") != "$want" ]]; then
            say "WRONG: $source/$path"
            bad=$((bad + 1))
        fi
        done=$((done + 1))
    done < <(jq -r '[.sha256, .meta.path, (.body | keys[0]), (.body | to_entries[0].value | join(" "))] | @tsv' \
        "$work/entries.jsonl" | sed 's/\\\\/\\/g')
    [[ $done == "$entries" ]] || die "source $source has $entries entries, $done were found"
    cp "$work/entries.jsonl" "$out/$source.entries.jsonl"
    say "source $source: $done entries"
done < <(jq -r '.sources[] | [.name, .entries, (.list | join(" "))] | @tsv' "$work/manifest.json")
cp "$work/manifest.json" "$out/manifest.json"
rm -rf "$work/chunks" "$work/entries.jsonl" "$work/manifest.json"
rmdir "$work" 2>/dev/null || true
[[ $bad == 0 ]] || die "$bad entries are not what was stored"
say "done: $out"
