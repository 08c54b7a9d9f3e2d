//! The state directory: who may use it, which files are in it, and whether the database in it is the one we know.
//!
//! ```text
//! store/        the database (sled)
//! store.id      the id of the database that belongs here
//! store.lock    locked by the process that uses the database
//! store.flushes how often the database was flushed to disk, as it says itself if it is whole
//! store.lost-1  a database that did not belong here or was no longer whole, set aside
//! store.before  the database as it was before it was opened; only while it is opened
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::domain::{Failure, FailureClass, Peer};

/// The pause between two tries to get the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether a store was ever made in a state directory. Fails if it cannot be looked into.
pub fn exists(dir: &Path) -> io::Result<bool> {
    dir.join("store.id").try_exists()
}

/// The state directory, held by this process until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory if there is none (mode 0700), and takes its lock. A process that is just ending is
    /// waited for, as long as `patience` lasts.
    pub(super) fn take(dir: &Path, patience: Duration) -> Result<Self, Failure> {
        let unusable = |what: &str, error: &io::Error| {
            Failure::new(
                Peer::Store,
                FailureClass::Permanent,
                "opening the state directory",
                format!("{what} in {} failed: {error}", dir.display()),
            )
            .mend(
                "state.directory must be a directory that the service's user can write to; under systemd, set \
                 StateDirectory=defguard-synapse-sync and leave state.directory at its default",
            )
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| unusable("making it", &e))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("store.lock"))
            .map_err(|error| unusable("writing the file `store.lock`", &error))?;
        let patience_ends = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir: dir.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < patience_ends => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(held()),
                Err(TryLockError::Error(error)) => return Err(unusable("locking `store.lock`", &error)),
            }
        }
    }

    /// Where the database is.
    pub(super) fn database(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Makes the directory of the database, and takes out of it what would keep sled from opening it: a snapshot
    /// that was being written when the process was killed. The snapshot before it is still there.
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        let database = self.database();
        self.put_back()?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&database)
            .map_err(|error| self.io("making the directory of the database", &error))?;
        for path in self.snapshots()? {
            if path.extension().is_some_and(|extension| extension == "generating") {
                fs::remove_file(&path)
                    .map_err(|error| self.io("removing an unfinished snapshot of the database", &error))?;
            }
        }
        Ok(())
    }

    /// Whether the database has data but no snapshot, without which sled takes it for empty and writes over it.
    pub(super) fn is_beheaded(&self) -> Result<bool, Failure> {
        let has_data = fs::metadata(self.database().join("db")).is_ok_and(|data| data.len() > 0);
        Ok(has_data && self.snapshots()?.is_empty())
    }

    fn snapshots(&self) -> Result<Vec<PathBuf>, Failure> {
        let what = "looking into the directory of the database";
        let mut found = Vec::new();
        for entry in fs::read_dir(self.database()).map_err(|error| self.io(what, &error))? {
            let entry = entry.map_err(|error| self.io(what, &error))?;
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// The id of the database that belongs here.
    pub(super) fn id(&self) -> Result<Option<String>, Failure> {
        match fs::read_to_string(self.dir.join("store.id")) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Not readable as text is not the id of any database.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(String::new())),
            Err(error) => Err(self.io("reading `store.id`", &error)),
        }
    }

    /// Remembers which database belongs here. The file is whole at any time.
    pub(super) fn set_id(&self, id: &str) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let new = self.dir.join("store.id.new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
            fs::rename(&new, self.dir.join("store.id"))?;
            sync_directory(&self.dir)
        };
        write().map_err(|error| self.io("writing `store.id`", &error))
    }

    /// How often the database was flushed, as far as that is known: 0 if the file is missing or is no number.
    pub(super) fn flushes(&self) -> Result<u64, Failure> {
        match fs::read(self.dir.join("store.flushes")) {
            Ok(bytes) => {
                Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.io("reading `store.flushes`", &error)),
        }
    }

    /// The file in which flushes are counted.
    pub(super) fn counter(&self) -> Result<Counter, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options
            .open(self.dir.join("store.flushes"))
            .map_err(|error| self.io("opening `store.flushes`", &error))?;
        Ok(Counter { file, last: 0 })
    }

    fn before(&self) -> PathBuf {
        self.dir.join("store.before")
    }

    /// Copies the database before sled opens it: where sled finds damage, it clears everything behind it. As long as there
    /// is a copy, it is what counts.
    pub(super) fn keep_copy(&self) -> Result<(), Failure> {
        let copy = || -> io::Result<()> {
            let new = self.dir.join("store.before.new");
            remove_directory(&new)?;
            copy_directory(&self.database(), &new)?;
            fs::rename(&new, self.before())
        };
        copy().map_err(|error| self.io("copying the database before it is opened", &error))
    }

    /// Gives up the copy: the database was opened and is whole, or was not touched.
    pub(super) fn drop_copy(&self) -> Result<(), Failure> {
        remove_directory(&self.before()).map_err(|error| self.io("removing the copy of the database", &error))
    }

    /// Puts the copy back in the place of the database, if there is one.
    pub(super) fn put_back(&self) -> Result<(), Failure> {
        let put_back = || -> io::Result<()> {
            if self.before().try_exists()? {
                remove_directory(&self.database())?;
                fs::rename(self.before(), self.database())?;
            }
            Ok(())
        };
        put_back().map_err(|error| self.io("putting the database back as it was", &error))
    }

    /// Moves the database aside, which must be closed, as it was before it was opened; gives the new place. Nothing of
    /// it is deleted.
    pub(super) fn set_aside(&self) -> Result<PathBuf, Failure> {
        self.put_back()?;
        let free = (1_u64..)
            .map(|number| self.dir.join(format!("store.lost-{number}")))
            .find(|path| !path.exists())
            .unwrap_or_else(|| self.dir.join("store.lost"));
        fs::rename(self.database(), &free)
            .and_then(|()| sync_directory(&self.dir))
            .map_err(|error| self.io("setting the old database aside", &error))?;
        Ok(free)
    }

    fn io(&self, what: &str, error: &io::Error) -> Failure {
        Failure::new(
            Peer::Store,
            FailureClass::Transient,
            what,
            format!("{error} (the state directory is {})", self.dir.display()),
        )
    }
}

/// Counts the flushes of the database beside it.
#[derive(Debug)]
pub(super) struct Counter {
    file: File,
    last: u64,
}

impl Counter {
    /// Notes that so many flushes are on disk. The note itself is not flushed: after a power cut it may be an older one,
    /// which claims less than is there.
    pub(super) fn note(&mut self, flushes: u64) -> Result<(), Failure> {
        // Several workers flush at once, and not in the order of their numbers.
        if flushes > self.last {
            self.write(flushes)?;
            self.last = flushes;
        }
        Ok(())
    }

    /// Begins to count anew, for a new database.
    pub(super) fn reset(&mut self) -> Result<(), Failure> {
        self.write(0)?;
        self.last = 0;
        Ok(())
    }

    fn write(&self, flushes: u64) -> Result<(), Failure> {
        // Always as long, so that one write replaces all of it.
        self.file.write_all_at(format!("{flushes:020}\n").as_bytes(), 0).map_err(|error| {
            Failure::new(
                Peer::Store,
                FailureClass::Transient,
                "writing `store.flushes`",
                format!("{error}; the state directory must be writable and have room"),
            )
        })
    }
}

/// Another process has the lock.
pub(super) fn held() -> Failure {
    Failure::new(
        Peer::Store,
        FailureClass::Transient,
        "opening the store",
        "another process holds the store: the daemon is running; verbs go through its control socket",
    )
    .mend(
        "if you were starting the daemon, it is running already: see `status`; otherwise check that this command reads the same config as the daemon (`control.socket`), or stop the daemon first",
    )
}

fn remove_directory(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
