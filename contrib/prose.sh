#!/bin/sh
# Finds words that the project's texts avoid, in code, scripts and documents:
#
#   sh contrib/prose.sh [FILE...]
#
# Without a FILE, every text of the project is read. The code is read by
# engineers from everywhere and searched with grep: it uses the field's own
# words. Words and exceptions are below.
#
# Exit codes: 0 none found, 1 some found.
set -eu
cd "$(dirname "$0")/.."

# An extended regular expression a line, case-insensitive, and what to write instead.
words() {
    cat <<'END'
\boctets?\b                              byte
\bfolders?\b                             directory
\brevocation lists?\b                    CRL
\b(PATIENCE|LATENESS|FAREWELL|LINGER)\b  a constant named for its use, such as REPLY_TIMEOUT
\bpatience\b                             timeout
\bmended\b                               fixed
\bmend(s|ing)?\b                         fix
\bkept aside\b                           moved to NAME
\banew\b                                 again; re-executes
\bAtHand\b                               Preopened
\bcarriers?\b                            transfer worker
\bobeyed\b                               honoured
\bis told of\b                           is printed, is reported
\bthere is no command\b                  unknown command 'x'
\b(struct|enum|type) (Most|Told|Own|Doing|Users|Standing)\b  a name for what it holds
\b(RUNS|LOADS|DESTROYS): &str\b          BHYVE, BHYVELOAD, BHYVECTL
///? *(Likewise|The same|Who|What)\b     a noun or a verb first
END
}

# What stays: FILE PATTERN, both extended regular expressions, the pattern matched against the line.
allowed() {
    cat <<'END'
^contrib/prose\.sh$ .
.* OCTET STRING
.* OctetString
^doc/protocol\.md$ \boctets?\b
END
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
allowed >"$scratch/allowed"

if [ $# = 0 ]; then
    set -- src man contrib tests doc systemd rc.d fuzz/src fuzz/fuzz_targets fuzz/tests ./*.md Cargo.toml
fi
words | while IFS= read -r line; do
    # At least two blanks stand between word and advice.
    word=$(printf '%s\n' "$line" | sed 's/  *$//; s/   *.*//')
    advice=$(printf '%s\n' "$line" | sed 's/.*   *//')
    grep -rnIiE --exclude='*.json' --exclude='*.pem' --exclude-dir=target -e "$word" -- "$@" |
        sed "s|^\./||; s|\$|  [$advice]|" || true
done >"$scratch/found"

while IFS=' ' read -r file pattern; do
    awk -F: -v file="$file" '{ exit !($1 ~ file) }' </dev/null || true
    grep -vE "^[^:]*:[0-9]+:.*($pattern)" "$scratch/found" >"$scratch/rest" || true
    # Lines of other files stay found.
    awk -F: -v file="$file" '$1 !~ file' "$scratch/found" >>"$scratch/rest"
    sort -u -t: -k1,1 -k2,2n "$scratch/rest" >"$scratch/found"
done <"$scratch/allowed"

if [ -s "$scratch/found" ]; then
    cat "$scratch/found"
    printf 'prose: %d lines with words that the project avoids\n' "$(wc -l <"$scratch/found")" >&2
    exit 1
fi
