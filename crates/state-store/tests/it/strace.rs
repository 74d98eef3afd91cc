//! Watches and disturbs the system calls of a running process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Whether strace works here. Says on stdout why a test that needs it does not run.
pub(crate) fn is_here() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    match works {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            println!("SKIPPED: strace does not work: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            println!("SKIPPED: strace is not here: {error}");
            false
        }
    }
}

/// strace on a process that runs already. Lets go of it when dropped.
pub(crate) struct Strace {
    child: Child,
    output: PathBuf,
}

/// A system call: where it begins and ends among all that were seen.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Arguments and result; strings are in hexadecimal.
    pub(crate) text: String,
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

impl Strace {
    /// Attaches to all threads of `process`. What is seen goes to `output`.
    pub(crate) fn attach(process: &Child, output: &Path, args: &[&str]) -> Self {
        let pid = process.id().to_string();
        let mut child = Command::new("strace")
            .args(["-f", "-y", "-xx", "-s", "65536", "-p", &pid, "-o"])
            .arg(output)
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().expect("strace says that it is attached").unwrap();
        assert!(first.contains("attached"), "{first}");
        // Nobody reads the rest: new threads are named there, and few come.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, output: output.to_owned() }
    }

    /// Lets go of the process.
    pub(crate) fn detach(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let interrupted = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        if interrupted.is_ok_and(|status| status.success()) {
            let _ = self.child.wait();
        }
    }

    /// Lets go, and returns what was seen.
    pub(crate) fn calls(mut self) -> Vec<Call> {
        self.detach();
        parse(&std::fs::read_to_string(&self.output).unwrap())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.detach();
    }
}

/// A text as `-xx` shows it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// The calls of `strace -f -o`: one a line, or in two parts when another thread was seen in between.
fn parse(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (place, line) in text.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(call) = open.remove(pid).and_then(|index| calls.get_mut(index)) {
                call.text.push_str(resumed.split_once("resumed>").map_or("", |(_, result)| result));
                call.end = place;
            }
            continue;
        }
        let Some((name, args)) = rest.split_once('(') else { continue };
        let unfinished = args.strip_suffix(" <unfinished ...>");
        let end = if unfinished.is_some() { usize::MAX } else { place };
        if unfinished.is_some() {
            open.insert(pid, calls.len());
        }
        calls.push(Call {
            name: name.to_owned(),
            text: unfinished.unwrap_or(args).to_owned(),
            begin: place,
            end,
        });
    }
    calls
}

#[test]
fn calls_in_two_parts_are_put_together() {
    let text =
        "7 fdatasync(3</db> <unfinished ...>\n8 write(4, \"\", 0) = 0\n7 <... fdatasync resumed>) = 0\n";
    let calls = parse(text);
    assert_eq!((calls[0].begin, calls[0].end, calls[0].text.as_str()), (0, 2, "3</db>) = 0"));
    assert_eq!((calls[1].begin, calls[1].end, calls[1].name.as_str()), (1, 1, "write"));
}
