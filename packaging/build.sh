#!/usr/bin/env bash
# Makes the Debian package, which lies in target/package/ afterwards: packaging/build.sh [PROFILE [--no-build]]
#
# The profile is that of cargo, `release` if none is given. With --no-build, a program that was built before is taken.
# Needs `cargo install cargo-deb --locked` and Debian's dpkg-dev.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-release}
case $profile in dev) directory=debug ;; *) directory=$profile ;; esac
out=target/package

if [ "${2:-}" != --no-build ]; then
  cargo build --locked --profile "$profile"
fi
program=target/$directory/defguard-synapse-sync

# Man pages and completions come from the very program that is packaged.
rm -rf "$out"
mkdir -p "$out/completions"
"$program" generate man "$out/man"
"$program" generate completions bash >"$out/completions/defguard-synapse-sync.bash"
"$program" generate completions zsh >"$out/completions/_defguard-synapse-sync"
"$program" generate completions fish >"$out/completions/defguard-synapse-sync.fish"

cargo deb --locked --no-build --profile "$profile" --output "$out"
