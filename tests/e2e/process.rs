//! The program itself, as a child that never outlives its test.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

/// Nothing here takes longer, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A verb that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// What was printed, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, if the exit code is this one.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

/// A running child, killed when it is dropped.
pub struct Process {
    child: Arc<Mutex<Child>>,
    pid: i32,
    out: Option<std::thread::JoinHandle<String>>,
    err: watch::Receiver<(String, bool)>,
}

impl Process {
    /// Starts the program with a config and nothing else of our environment.
    pub fn start(config: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_defguard-synapse-sync"))
            .arg("--config")
            .arg(config)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let out = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        let (lines, err) = watch::channel((String::new(), false));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.send_modify(|(text, _)| {
                    text.push_str(&line);
                    text.push('\n');
                });
            }
            lines.send_modify(|(_, ended)| *ended = true);
        });
        Self { child: Arc::new(Mutex::new(child)), pid, out: Some(out), err }
    }

    /// Waits until standard error holds a text.
    pub async fn says(&self, text: &str) {
        let mut err = self.err.clone();
        let wait = err.wait_for(|(so_far, ended)| *ended || so_far.contains(text));
        let found = tokio::time::timeout(PATIENCE, wait).await;
        let found = found.is_ok_and(|found| found.is_ok_and(|found| found.0.contains(text)));
        assert!(found, "the program never said {text:?}, but:\n{}", self.err.borrow().0);
    }

    /// Waits until the program has closed its standard error, as it does at its end.
    pub async fn gone(&self) {
        let _ = self.err.clone().wait_for(|(_, ended)| *ended).await;
    }

    /// Waits until a line of standard error holds a text; gives what stands behind it in that line.
    pub async fn says_behind(&self, text: &str) -> String {
        self.says(text).await;
        let err = self.err.borrow();
        let (_, behind) = err.0.split_once(text).unwrap();
        behind.lines().next().unwrap_or_default().to_owned()
    }

    /// How often standard error holds a text by now.
    pub fn count(&self, text: &str) -> usize {
        self.err.borrow().0.matches(text).count()
    }

    /// What standard error holds by now.
    pub fn log(&self) -> String {
        self.err.borrow().0.clone()
    }

    /// Waits until standard error holds a text so many times.
    pub async fn says_times(&self, text: &str, times: usize) {
        let mut err = self.err.clone();
        let wait = err.wait_for(|(so_far, ended)| *ended || so_far.matches(text).count() >= times);
        let _ = tokio::time::timeout(PATIENCE, wait).await;
        assert!(self.count(text) >= times, "{text:?} not {times} times in:\n{}", self.err.borrow().0);
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub async fn kill(self) -> Ended {
        self.child.lock().unwrap().kill().unwrap();
        self.ended().await
    }

    /// Asks for an orderly end.
    pub fn terminate(&self) {
        let done = Command::new("kill").args(["-TERM", &self.pid.to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Ended {
        let child = Arc::clone(&self.child);
        let wait = tokio::task::spawn_blocking(move || {
            let deadline = std::time::Instant::now() + PATIENCE;
            loop {
                if let Some(status) = child.lock().unwrap().try_wait().unwrap() {
                    return Some(status);
                }
                if std::time::Instant::now() > deadline {
                    return None;
                }
                // The end of a child without blocking the one who may kill it has no event in the standard library.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let status: Option<ExitStatus> = wait.await.unwrap();
        let Some(status) = status else { panic!("the program does not end:\n{}", self.err.borrow().0) };
        let out = self.out.take().unwrap();
        let out = tokio::task::spawn_blocking(move || out.join().unwrap()).await.unwrap();
        let _ = self.err.wait_for(|(_, ended)| *ended).await;
        let err = self.err.borrow().0.clone();
        Ended { code: status.code(), signal: status.signal(), out, err }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
