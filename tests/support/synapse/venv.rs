//! A virtual environment with Synapse from PyPI, made once below the cargo target directory.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The Synapse that the tests run against, unless `TEST_SYNAPSE_VERSION` names another.
pub const VERSION: &str = "1.163.2";

/// Where progress is told, one line at a time.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The Python interpreter of an environment that has Synapse. Made at the first call, which takes about a minute;
/// other processes that want it meanwhile wait.
///
/// `TEST_SYNAPSE_VENV` names an environment to use as it is, `TEST_PYTHON` the interpreter to make one with.
pub fn python(progress: Progress<'_>) -> Result<PathBuf, String> {
    if let Some(ready) = env::var_os("TEST_SYNAPSE_VENV") {
        return Ok(interpreter(Path::new(&ready)));
    }
    let version = env::var("TEST_SYNAPSE_VERSION").unwrap_or_else(|_| VERSION.to_owned());
    let target = target_dir()?;
    let venv = target.join("synapse-venv");
    let stamp = venv.join("complete");
    // An environment is of no use any more when its Python is another one than it was made with.
    let wanted = || Some(format!("synapse {version}, {}", python_version(&venv)?));
    let is_complete =
        || wanted().is_some_and(|wanted| fs::read_to_string(&stamp).is_ok_and(|is| is == wanted));
    if is_complete() {
        return Ok(interpreter(&venv));
    }
    // The lock goes with the process, so that an interrupted installation blocks nobody.
    let lock = fs::File::create(target.join("synapse-venv.lock"))
        .map_err(|error| format!("cannot make a lock file in {}: {error}", target.display()))?;
    if lock.try_lock().is_err() {
        progress("waiting for another process that is installing Synapse");
        lock.lock().map_err(|error| format!("cannot lock the virtual environment: {error}"))?;
    }
    if !is_complete() {
        install(&venv, &version, progress)?;
        let wanted = wanted().ok_or_else(|| format!("there is no Python in {}", venv.display()))?;
        fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    }
    Ok(interpreter(&venv))
}

fn interpreter(venv: &Path) -> PathBuf {
    venv.join("bin").join("python")
}

fn python_version(venv: &Path) -> Option<String> {
    let output = Command::new(interpreter(venv)).arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn install(venv: &Path, version: &str, progress: Progress<'_>) -> Result<(), String> {
    let python = env::var("TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    progress(&format!("making a virtual environment in {}", venv.display()));
    let mut make = Command::new(&python);
    make.args(["-m", "venv", "--clear"]).arg(venv);
    run(&mut make, progress).map_err(|why| {
        format!(
            "{python} cannot make a virtual environment; Python 3.10 or newer with venv is needed ({why})"
        )
    })?;
    progress(&format!("installing Synapse {version} from PyPI; this is done once"));
    let mut pip = Command::new(interpreter(venv));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"])
        .arg(format!("matrix-synapse[oidc]=={version}"));
    run(&mut pip, progress).map_err(|why| format!("Synapse {version} cannot be installed from PyPI ({why})"))
}

/// Runs a command to its end, telling each line that it prints. The last lines are in the error.
fn run(command: &mut Command, progress: Progress<'_>) -> Result<(), String> {
    let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    let stderr = writer.try_clone().map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(stderr);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // The pipe ends when nobody holds its other end any more, and the command still holds it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut last = Vec::new();
    let mut told = Instant::now();
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        if told.elapsed() > Duration::from_millis(500) {
            progress(&line);
            told = Instant::now();
        }
        last.push(line);
        if last.len() > 10 {
            last.remove(0);
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}: {}", last.join("\n"))) }
}

/// Cargo's target directory, in which the running test or example lies.
pub fn target_dir() -> Result<PathBuf, String> {
    let exe = env::current_exe().map_err(|error| format!("cannot tell where this program lies: {error}"))?;
    exe.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map(Path::to_path_buf)
        .or_else(|| env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .ok_or_else(|| {
            format!("{} is not in a cargo target directory, and CARGO_TARGET_DIR is not set", exe.display())
        })
}
