#!/usr/bin/env bash
# Gets a snapshot out of this repository with stock tools only: age, zstd, tar, jq, sha256sum, minisign.
# Every entry is written under its path below DIR/<source>/. Nothing in the repository is changed.
set -euo pipefail

usage() {
    cat >&2 <<'TEXT'
usage: recover.sh -i IDENTITY -o DIR [-k SIGNER] [-w WORKDIR] [WHEN]
  IDENTITY  the age identity file (recovery identity)
  DIR       a new or empty folder for the result
  SIGNER    the writer's public key (RW…) from your recovery sheet; without it the key in
            config.json is used, which a thief of the store could have replaced
  WORKDIR   where unpacked chunks go meanwhile (default: DIR/.chunks, removed at the end)
  WHEN      latest (default), or the beginning of a snapshot id; ids are the names in refs/
TEXT
    exit 2
}

identity='' out='' signer='' work=''
while getopts 'i:o:k:w:h' option; do
    case $option in
        i) identity=$OPTARG ;;
        o) out=$OPTARG ;;
        k) signer=$OPTARG ;;
        w) work=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
when=${1:-latest}
if [[ -z $identity || -z $out ]]; then usage; fi

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
die() { printf 'recover.sh: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*" >&2; }
for tool in age zstd tar jq sha256sum minisign; do
    command -v "$tool" >/dev/null || die "$tool is not installed"
done
[[ -r $identity ]] || die "identity file $identity cannot be read"
mkdir -p "$out"
[[ -z $(ls -A "$out") ]] || die "$out is not empty"
out=$(cd "$out" && pwd)
work=${work:-$out/.chunks}
mkdir -p "$work"

[[ $(jq -r .format "$repo/config.json") == 1 ]] || die "this script reads format 1 only"
if [[ -z $signer ]]; then
    signer=$(jq -r '.signers[0]' "$repo/config.json")
    say "signer: $signer (from config.json: compare it with your recovery sheet)"
fi
minisign -Vqm "$repo/config.json" -x "$repo/config.json.minisig" -P "$signer" \
    || die "config.json is not signed by $signer"

# The newest signed refs that fit WHEN.
refs=''
for candidate in "$repo"/refs/*.json; do
    name=$(basename "$candidate")
    [[ -f $candidate.minisig ]] || continue
    [[ $when == latest || $name == "$when"* ]] || continue
    [[ $name > $(basename "${refs:-}") ]] && refs=$candidate
done
[[ -n $refs ]] || die "no committed snapshot fits $when"
minisign -Vqm "$refs" -x "$refs.minisig" -P "$signer" || die "$(basename "$refs") is not signed by $signer"
snapshot=$(jq -r .snapshot "$refs")
[[ $(jq -r .repository "$refs") == "$(jq -r .repository "$repo/config.json")" ]] \
    || die "the refs belong to another repository"
say "snapshot: $snapshot ($(jq -r .status "$refs"))"

manifest=$repo/manifests/$snapshot.json.zst.age
[[ $(sha256sum <"$manifest" | cut -d' ' -f1) == "$(jq -r .manifest "$refs")" ]] || die "the manifest was changed"
age -d -i "$identity" "$manifest" | zstd -dqc >"$work/manifest.json"

# Every pack of the snapshot: checked by its name, opened, unpacked.
count=$(jq '.packs | length' "$refs") number=0
while read -r pack; do
    number=$((number + 1))
    file=$repo/packs/${pack:0:2}/$pack.tar.zst.age
    [[ -f $file ]] || die "pack $pack is missing"
    [[ $(sha256sum <"$file" | cut -d' ' -f1) == "$pack" ]] || die "pack $pack was changed"
    age -d -i "$identity" "$file" | zstd -dqc | tar -x -C "$work" --exclude=PACK-INDEX.json
    say "pack $number of $count"
done < <(jq -r '.packs | keys[]' "$refs")
(cd "$work/chunks" && find . -type f -name '????????????????????????????????????????????????????????????????' \
    | sed 's|^\./\(.*\)$|\1  \1|' | sha256sum --quiet -c -) || die "a chunk is not what its name says"

# Entries: an entry list is JSON lines; a body is chunks, or chunks that list chunks.
bad=0
while IFS=$'\t' read -r source list; do
    for chunk in $list; do cat "$work/chunks/$chunk"; done >"$work/entries.jsonl"
    while IFS=$'\t' read -r sum path kind ids; do
        [[ $path != /* && "/$path/" != */../* ]] || die "entry path $path climbs"
        target=$out/$source/$path
        # A store may hold both `a` and `a/b`; a file system cannot. Such an entry gets a % at its end.
        parent=$(dirname "$target")
        while ! mkdir -p "$parent" 2>/dev/null; do
            blocked=$parent
            while [[ ! -f $blocked ]]; do blocked=$(dirname "$blocked"); [[ $blocked == "$out" ]] && die "cannot make $parent"; done
            mv "$blocked" "$blocked%"
        done
        [[ -d $target ]] && target=$target%
        if [[ $kind == lists ]]; then
            ids=$(for id in $ids; do cat "$work/chunks/$id"; done)
        fi
        for id in $ids; do cat "$work/chunks/$id"; done >"$target"
        if [[ $(sha256sum <"$target" | cut -d' ' -f1) != "$sum" ]]; then
            say "WRONG: $source/$path"
            bad=$((bad + 1))
        fi
    done < <(jq -r '[.sha256, .meta.path, (.body | keys[0]), (.body | to_entries[0].value | join(" "))] | @tsv' \
        "$work/entries.jsonl" | sed 's/\\\\/\\/g')
    cp "$work/entries.jsonl" "$out/$source.entries.jsonl"
    say "source $source: $(wc -l <"$work/entries.jsonl") entries"
done < <(jq -r '.sources[] | [.name, (.list | join(" "))] | @tsv' "$work/manifest.json")
cp "$work/manifest.json" "$out/manifest.json"
rm -rf "$work/chunks" "$work/entries.jsonl" "$work/manifest.json"
rmdir "$work" 2>/dev/null || true
[[ $bad == 0 ]] || die "$bad entries are not what was stored"
say "done: $out"
