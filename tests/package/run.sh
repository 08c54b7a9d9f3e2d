#!/usr/bin/env bash
# Builds the Debian package and lives through its whole life in a Debian 12 of its own, under the real systemd of that
# release, beside a real Synapse and the stand-in Defguard: install, check, start, reload, be asked by a member of its
# group, one sync by the timer's service, remove, purge.
#
#   tests/package/run.sh [PROFILE]     the profile of cargo, `dev` if none is given
#
# Needs root, and cargo-deb, debootstrap, dpkg-dev and systemd-container.
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${1:-dev}
name=defguard-synapse-sync
work=$(mktemp -d)
root=$work/root
sandbox=
machine=
end() {
  for child in $sandbox $machine; do
    kill -TERM "$child" 2>/dev/null || continue
    for _ in $(seq 100); do kill -0 "$child" 2>/dev/null && sleep 0.1; done
    kill -KILL "$child" 2>/dev/null || true
  done
  rm -rf --one-file-system "$work"
}
trap end EXIT
say() { printf '\n-- %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# Waits until a command succeeds: at most two minutes.
until_true() {
  for _ in $(seq 1200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  return 1
}

say "the package"
if [ "$profile" = dev ]; then
  # With everything that the tests build as well, nothing is built twice.
  cargo build --locked --all-targets
  packaging/build.sh "$profile" --no-build
else
  cargo build --locked --example sandbox
  packaging/build.sh "$profile"
fi
package=$(ls target/package/*.deb)
dpkg-deb --info "$package"
dpkg-deb --contents "$package"

say "servers to work with"
target/debug/examples/sandbox >"$work/sandbox.log" 2>&1 &
sandbox=$!

say "a Debian 12 of its own"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)
[ -n "$mirror" ] || fail "apt knows no mirror of Debian; run apt-get update"
debootstrap --variant=minbase --include=systemd,procps,man-db,ca-certificates bookworm "$root" "$mirror" >"$work/debootstrap.log" ||
  { tail -50 "$work/debootstrap.log"; fail "debootstrap"; }
systemd-nspawn --quiet --register=no --keep-unit --console=read-only --directory="$root" --boot \
  </dev/null >"$work/machine.log" 2>&1 &
machine=$!
first() { pgrep -P "$machine" | head -1; }
inside() { nsenter --target "$(first)" --all /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
until_true inside systemctl --quiet is-active multi-user.target || { cat "$work/machine.log"; fail "it does not boot"; }
inside systemctl --version | head -1

# Everything on disk but what the machine itself and dpkg keep.
files() {
  (cd "$root" && find etc usr opt root home srv var/lib -xdev \
    \( -path var/lib/dpkg -o -path var/lib/systemd -o -path "var/lib/$name" \) -prune -o \
    ! -name '*-' -printf '%p %M %u %g\n' | sort)
  for file in passwd group shadow gshadow; do sort "$root/etc/$file" | sed "s/^/$file: /"; done
}
files >"$work/before"

say "install"
cp "$package" "$root/opt/package.deb"
inside dpkg -i /opt/package.deb
[ "$(inside systemctl is-enabled "$name.service")" = disabled ] || fail "it is enabled before it is configured"
[ "$(inside systemctl is-active "$name.service")" = inactive ] || fail "it was started before it was configured"
grep -q "^$name:" "$root/etc/passwd" || fail "there is no user"
[ "$(stat -c '%a %u' "$root/etc/$name/credentials")" = "700 0" ] || fail "the directory of the secrets is open"
inside man -w "$name" "$name-sync" >/dev/null || fail "there are no man pages"
inside "$name" generate completions bash |
  diff - "$root/usr/share/bash-completion/completions/$name" || fail "the completions are not of this program"

say "the units"
for unit in "$name.service" "$name-oneshot.service" "$name-oneshot.timer"; do
  said=$(inside systemd-analyze verify "/usr/lib/systemd/system/$unit" 2>&1) || fail "$unit: $said"
  [ -z "$said" ] || fail "systemd-analyze verify is not silent about $unit: $said"
done
for unit in "$name.service" "$name-oneshot.service"; do
  # The threshold is ten times the exposure.
  inside systemd-analyze security --offline=true --threshold=15 --no-pager "/usr/lib/systemd/system/$unit" |
    tail -1 || fail "$unit is exposed more than 1.5"
done

say "check and start before anything is configured"
state() { inside systemctl show -P "$1" "$name.service"; }
check() { inside CREDENTIALS_DIRECTORY="/etc/$name/credentials" "$name" check; }
code=0
check >"$work/unconfigured" || code=$?
cat "$work/unconfigured"
[ "$code" = 2 ] || fail "an unconfigured check should end with 2, and ended with $code"
grep -q "synapse-token" "$work/unconfigured" || fail "it does not say which secrets are missing"
! inside systemctl start "$name.service" 2>/dev/null || fail "it started without a config"
[ "$(state ExecMainStatus) $(state ActiveState) $(state NRestarts)" = "2 failed 0" ] ||
  fail "a config that cannot be used should end it with 2, once"

say "configure as docs/install.md says"
until_true grep -q "The daemon is up" "$work/sandbox.log" || { cat "$work/sandbox.log"; fail "the sandbox"; }
theirs=$(sed -n 's/^.* --config \([^ ]*\) explain .*$/\1/p' "$work/sandbox.log" | head -1)
value() { sed -n "s/^$1 = \"\(.*\)\"$/\1/p" "$theirs" | sed -n "${2:-1}p"; }
secret() { install -m 0400 "$1" "$root/etc/$name/credentials/$2"; }
secret "$(value password_file)" defguard-password
secret "$(value token_file)" synapse-token
mkdir -p "$root/etc/matrix-synapse"
install -m 0640 "$(sed -n 's/^homeserver_config = \["\(.*\)"\]$/\1/p' "$theirs")" "$root/etc/matrix-synapse/homeserver.yaml"
cat >"$root/etc/$name/config.toml" <<TOML
[defguard]
url = "$(value url 1)"
username = "admin"
instance = "package"

[synapse]
url = "$(value url 2)"
homeserver_config = ["\$CREDENTIALS_DIRECTORY/homeserver.yaml"]

[accounts]
on_conflict = "suffix"

[scope]
exclude_users = ["user*"]
TOML
cp "$root/etc/matrix-synapse/homeserver.yaml" "$root/etc/$name/credentials/homeserver.yaml"
check
rm "$root/etc/$name/credentials/homeserver.yaml"

say "start"
inside systemctl start "$name.service" || { inside journalctl --no-pager -u "$name.service"; fail "it does not start"; }
[ "$(state ActiveState)" = active ] || fail "it is not active"
[ "$(state WatchdogUSec)" = 5min ] || fail "it has no watchdog"
status_says() { state StatusText | grep -q -- "$1"; }
until_true status_says "last sync .* ok" || { inside journalctl --no-pager -u "$name.service"; fail "it does not sync"; }
inside systemctl status --no-pager --lines=0 "$name.service"
pid=$(state MainPID)
inside cat "/proc/$pid/status" | grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):'
inside cat "/proc/$pid/status" | grep -q '^CapBnd:.0000000000000000$' || fail "it can get capabilities"
inside journalctl --no-pager -o cat -u "$name.service"
inside journalctl --no-pager -o json -u "$name.service" ACTION=created | grep -q '"PERSON"' ||
  fail "the journal has no fields"

say "asked by a member of its group and by a stranger"
inside useradd --groups "$name" helper
inside useradd stranger
as() { local who=$1; shift; inside setpriv --reuid="$who" --regid="$who" --init-groups "$name" "$@"; }
as helper sync --full | tail -1
as helper status | head -2
! as stranger status || fail "a stranger may ask the daemon"

say "reload"
sed -i 's/^exclude_users/exclude_user/' "$root/etc/$name/config.toml"
inside systemctl reload "$name.service"
until_true status_says "the new config cannot be used" || fail "a bad config was taken over"
as helper sync | tail -1
sed -i 's/^exclude_user /exclude_users /' "$root/etc/$name/config.toml"
inside systemctl reload "$name.service"
until_true status_says "the config was read again" || fail "the config was not read again"
[ "$(state NRestarts) $(state MainPID)" = "0 $pid" ] || fail "it did not stay up"

say "stop, and sync by the timer"
inside systemctl stop "$name.service"
[ "$(state Result)" = success ] || fail "it did not end well"
inside systemctl start "$name-oneshot.timer"
inside systemctl start "$name-oneshot.service" ||
  { inside journalctl --no-pager -u "$name-oneshot.service"; fail "the single sync"; }
inside journalctl --no-pager -o cat -u "$name-oneshot.service" | tail -3
inside systemctl list-timers --no-pager "$name-oneshot.timer"

say "upgrade, remove, purge"
inside systemctl stop "$name-oneshot.timer"
inside systemctl --quiet enable --now "$name.service"
pid=$(state MainPID)
inside dpkg -i /opt/package.deb
[ "$(state ActiveState)" = active ] && [ "$(state MainPID)" != "$pid" ] || fail "an upgrade leaves the old version running"
inside dpkg --remove "$name"
! pgrep -f "^/usr/bin/$name run" || fail "it runs on after it was removed"
[ -f "$root/etc/$name/config.toml" ] || fail "a removal took the config"
inside userdel helper
inside userdel stranger
inside dpkg --purge "$name"
rm -r "$root/etc/matrix-synapse" "$root/opt/package.deb"
files >"$work/after"
diff "$work/before" "$work/after" || fail "a purge leaves something behind"
[ "$(stat -c '%a %u' "$root/var/lib/$name")" = "700 0" ] || fail "the state is open to others"
[ -e "$root/var/lib/$name/store.lock" ] || fail "a purge took the state"
printf '\nthe package is good: %s\n' "$package"
