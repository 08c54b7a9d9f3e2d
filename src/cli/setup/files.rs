//! The files that setting up writes: what becomes of one that is there already, and writing one whole, with its mode and
//! owner, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};

/// Mode of what Synapse or this service reads by its group.
pub(super) const FOR_THE_GROUP: u32 = 0o640;
/// Mode of what only its owner reads.
pub(super) const FOR_THE_OWNER: u32 = 0o600;
/// Mode of what holds no secret.
pub(super) const FOR_ALL: u32 = 0o644;

/// What is to be done about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileStep {
    /// It is as it is to be.
    Keep,
    /// It says what it is to say, but the wrong people can read it.
    Adjust,
    /// There is none.
    Write,
    /// Another one is there, and may be replaced.
    Replace,
    /// Another one is there, and may not.
    Refuse,
}

impl FileStep {
    /// Decides from what is in the file, what is to be, and whether the right people can read it.
    pub(super) fn of(present: Option<&str>, wanted: Option<&str>, is_open: bool, may_replace: bool) -> Self {
        match (present, wanted) {
            (None, _) => Self::Write,
            (Some(present), Some(wanted)) if present.trim_end() == wanted.trim_end() => {
                if is_open {
                    Self::Keep
                } else {
                    Self::Adjust
                }
            }
            (Some(_), _) if may_replace => Self::Replace,
            (Some(_), _) => Self::Refuse,
        }
    }
}

/// Who is to read a file; `None` is left as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl Owner {
    /// Lets a user read a file of mode 0640: by the group if they have one that says something, else as the owner.
    /// (Debian puts some system users into `nogroup`, 65534.)
    pub(super) fn readable_by((uid, gid): (u32, u32)) -> Self {
        if matches!(gid, 0 | 65_534) {
            Self { uid: Some(uid), gid: None }
        } else {
            Self { uid: None, gid: Some(gid) }
        }
    }

    /// The owner that lets a reader read, if there is one and root asks.
    pub(super) fn of_reader(reader: Option<(u32, u32)>) -> Self {
        reader.filter(|_| is_root()).map_or_else(Self::default, Self::readable_by)
    }

    /// For a user alone.
    pub(super) fn only(uid: u32) -> Self {
        Self { uid: Some(uid), gid: None }
    }
}

/// The user that Synapse runs as, if that can be told: whoever was named, else the owner of its config, unless that is
/// root, else Debian's user for it.
pub(super) fn synapse_user(
    named: Option<(u32, u32)>,
    config_owner: Option<(u32, u32)>,
    usual: Option<(u32, u32)>,
) -> Option<(u32, u32)> {
    named.or_else(|| config_owner.filter(|(uid, _)| *uid != 0)).or(usual)
}

/// A user of this system by name or number.
pub(super) fn user(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let by = |field: usize| {
        passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|line| line.get(field) == Some(&name))
    };
    let line = by(0).or_else(|| by(2))?;
    Some((line.get(2)?.parse().ok()?, line.get(3)?.parse().ok()?))
}

/// Who owns a file.
pub(super) fn owner_of(path: &Path) -> Option<(u32, u32)> {
    fs::metadata(path).map(|file| (file.uid(), file.gid())).ok()
}

/// Whether this process is root's.
pub(super) fn is_root() -> bool {
    owner_of(Path::new("/proc/self")).is_some_and(|(uid, _)| uid == 0)
}

/// Whether a file can be read by a user, if one is given, and by no more people than a mode says.
pub(super) fn is_open_to(path: &Path, reader: Option<(u32, u32)>, mode: u32) -> bool {
    let Ok(file) = fs::metadata(path) else { return false };
    let bits = file.mode() & 0o777;
    let can_read = reader.is_none_or(|(uid, gid)| {
        uid == 0 || (file.uid() == uid && bits & 0o400 != 0) || (file.gid() == gid && bits & 0o040 != 0)
    });
    bits & !mode == 0 && can_read
}

/// Gives a file its mode and owner.
pub(super) fn adjust(path: &Path, mode: u32, owner: Owner) -> Result<(), String> {
    File::open(path).and_then(|file| give(&file, mode, owner)).map_err(|error| {
        format!(
            "cannot change the mode of {}: {error}\n  → run this as root, or as its owner",
            path.display()
        )
    })
}

fn give(file: &File, mode: u32, owner: Owner) -> io::Result<()> {
    if owner != Owner::default() {
        fchown(file, owner.uid, owner.gid)?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// What is in a file, `None` if there is none.
pub(super) fn present(path: &Path) -> Result<Option<SecretString>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} is there and cannot be read: {error}", path.display())),
    }
}

/// Writes a file whole: beside its place first, then into it, so that nobody ever reads half of it. What was there is
/// kept beside it; its name is given back. The error says what to do.
pub(super) fn write(
    path: &Path,
    text: &SecretString,
    mode: u32,
    owner: Owner,
    now: DateTime<Utc>,
) -> Result<Option<PathBuf>, String> {
    let explain = |what: &str, error: io::Error| {
        let mend = match error.kind() {
            io::ErrorKind::NotFound => "make its directory first",
            io::ErrorKind::PermissionDenied => "run this as root, or as somebody who may write there",
            _ => "see whether the disk is full or read-only",
        };
        format!("{what} {}: {error}\n  → {mend}", path.display())
    };
    // No name that Synapse reads: it takes all `*.yaml` of a directory.
    let beside = with_suffix(path, ".new");
    // Left over from a write that was cut off.
    let _ = fs::remove_file(&beside);
    let done = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FOR_THE_OWNER).open(&beside)?;
        file.write_all(text.expose_secret().as_bytes())?;
        if !text.expose_secret().ends_with('\n') {
            file.write_all(b"\n")?;
        }
        give(&file, mode, owner)?;
        file.sync_all()
    })();
    if let Err(error) = done {
        let _ = fs::remove_file(&beside);
        return Err(explain("cannot write", error));
    }
    let kept = path.exists().then(|| with_suffix(path, &format!(".{}.bak", now.format("%Y%m%dT%H%M%SZ"))));
    if let Some(kept) = &kept {
        // A second name for the old one: its mode and owner stay, and its place is never empty.
        fs::hard_link(path, kept)
            .or_else(|_| fs::copy(path, kept).map(|_| ()))
            .map_err(|error| explain("cannot keep a copy of", error))?;
    }
    fs::rename(&beside, path).map_err(|error| explain("cannot put into place", error))?;
    if let Some(directory) = path.parent() {
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
    Ok(kept)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_file_that_differs_is_never_replaced_unasked() {
        let step = |present, wanted, may_replace| FileStep::of(present, wanted, true, may_replace);
        assert_eq!(step(None, Some("a"), false), FileStep::Write);
        assert_eq!(step(Some("a\n"), Some("a"), false), FileStep::Keep);
        assert_eq!(step(Some("a"), Some("a"), true), FileStep::Keep);
        assert_eq!(step(Some("a"), Some("b"), false), FileStep::Refuse);
        assert_eq!(step(Some("a"), Some("b"), true), FileStep::Replace);
        // What is to be is not known yet, so it is another.
        assert_eq!(step(Some("a"), None, false), FileStep::Refuse);
        assert_eq!(step(None, None, false), FileStep::Write);
        assert_eq!(FileStep::of(Some("a"), Some("a"), false, false), FileStep::Adjust);
    }

    #[test]
    fn synapse_reads_by_its_group_or_as_the_owner_where_it_has_none() {
        assert_eq!(Owner::readable_by((110, 115)), Owner { uid: None, gid: Some(115) });
        assert_eq!(Owner::readable_by((110, 65_534)), Owner { uid: Some(110), gid: None });
        assert_eq!(synapse_user(Some((1, 1)), Some((2, 2)), Some((3, 3))), Some((1, 1)));
        assert_eq!(synapse_user(None, Some((2, 2)), Some((3, 3))), Some((2, 2)));
        assert_eq!(synapse_user(None, Some((0, 0)), Some((3, 3))), Some((3, 3)));
        assert_eq!(synapse_user(None, Some((0, 0)), None), None);
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_what_was_there_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("entry.yaml");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let write = |text: &str, second| {
            super::write(&path, &text.to_owned().into(), FOR_THE_GROUP, Owner::default(), at(second)).unwrap()
        };
        assert_eq!(write("one", 0), None);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("one\n", 0o640));
        let kept = write("two\n", 1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!((fs::read_to_string(&kept).unwrap().as_str(), mode(&kept)), ("one\n", 0o640));
        let yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml");
        let names: Vec<PathBuf> =
            fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(names.iter().filter(|path| yaml(path)).count(), 1, "{names:?}");
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_file_is_open_to_its_reader_and_to_nobody_beyond_its_mode() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secret");
        fs::write(&path, "x").unwrap();
        let (uid, gid) = owner_of(&path).unwrap();
        let open = |mode, reader| {
            adjust(&path, mode, Owner::default()).unwrap();
            is_open_to(&path, reader, FOR_THE_GROUP)
        };
        assert!(open(0o640, None));
        assert!(!open(0o644, None), "everybody reads it");
        assert!(open(0o600, None));
        assert!(open(0o640, Some((77_777, gid))));
        assert!(!open(0o600, Some((77_777, gid))));
        assert!(!open(0o640, Some((77_777, 77_777))));
        assert!(open(0o400, Some((uid, 77_777))));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_explained() {
        let nowhere = Path::new("/nowhere/at/all");
        let error = write(nowhere, &"x".to_owned().into(), FOR_ALL, Owner::default(), at(0)).unwrap_err();
        assert!(error.contains("/nowhere/at/all") && error.contains("make its directory"), "{error}");
    }
}
