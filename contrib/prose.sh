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

# An extended regular expression a line, and what to write instead. One without capitals ignores case.
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
END
}

# Exceptions: extended regular expressions for "FILE:LINE:TEXT".
allowed() {
    cat <<'END'
^contrib/prose\.sh:
OCTET STRING
^doc/protocol\.md:.*[Oo]ctet
\.octets\(\)
^CONTRIBUTING\.md:.*(\*octet\*|\*folder\*)
^doc/glossary\.md:.*\*\*CRL\*\*
^doc/albatross-behaviour\.md:.*no command .help
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
    # At least two blanks stand between an expression and the advice.
    word=${line%%  *}
    advice=${line##*  }
    case $word in *[A-Z]*) case= ;; *) case=-i ;; esac
    grep -rnIE $case --exclude='*.json' --exclude='*.pem' -e "$word" -- "$@" |
        sed "s|^\./||; s|\$|  [$advice]|" || true
done >"$scratch/all"

# The first word of a doc comment: the first of its lines only.
find "$@" -name '*.rs' -exec awk '
    FNR == 1 { last = "" }
    { sub(/^ */, ""); kind = /^\/\/[\/!]/ ? substr($0, 1, 3) : "" }
    kind != "" && kind != last && /^\/\/[\/!] (It|Likewise|That|The same|What|Who)[ ,.:]/ {
        print FILENAME ":" FNR ":" $0 "  [begin with a noun or a verb]"
    }
    { last = kind }
' {} + | sed 's|^\./||' >>"$scratch/all"

grep -vEf "$scratch/allowed" "$scratch/all" | sort -u -t: -k1,1 -k2,2n >"$scratch/found" || true

if [ -s "$scratch/found" ]; then
    cat "$scratch/found"
    printf 'prose: %d lines with words that the project avoids\n' "$(wc -l <"$scratch/found")" >&2
    exit 1
fi
