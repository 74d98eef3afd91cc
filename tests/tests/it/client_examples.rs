//! `docs/clients.md` as it stands there: each program is run against a node, and prints what the page says.
//!
//! curl and Rust are run with the other tests. grpcurl and Python need programs that not every machine has:
//! `make clients` installs these, and runs those tests that are ignored here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use lattice_tests::cluster::{Cluster, Member, P2p, binary_path};

/// The program that the page shows.
#[path = "../../../crates/lattice-proto/examples/client.rs"]
#[allow(dead_code, unreachable_pub)]
mod rust;

/// What stands between the outputs of two programs of one section.
const NEXT: &str = "@@ next @@";
/// What stands for anything in an output.
const ANYTHING: char = '…';

/// A fenced block: the words after the fence, and its lines.
struct Block {
    words: Vec<String>,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The blocks below a heading of the page.
fn section(heading: &str) -> Vec<Block> {
    let page = fs::read_to_string(root().join("docs/clients.md")).expect("the page");
    let below = page.split(&format!("\n## {heading}\n")).nth(1).expect("the heading");
    let section = below.split("\n## ").next().unwrap_or_default();
    let mut blocks = Vec::new();
    // Every second fence closes a block.
    for (index, part) in format!("\n{section}").split("\n```").enumerate() {
        if index % 2 == 1 {
            let (words, text) = part.split_once('\n').unwrap_or((part, ""));
            blocks.push(Block {
                words: words.split(' ').map(str::to_owned).collect(),
                text: format!("{text}\n"),
            });
        }
    }
    blocks
}

/// Whether a text is as it was shown, [`ANYTHING`] standing for what differs.
fn matches(shown: &str, text: &str) -> bool {
    let mut rest = text;
    let mut parts = shown.split(ANYTHING);
    let Some(after) = parts.next().and_then(|first| rest.strip_prefix(first)) else { return false };
    rest = after;
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        // What differs is within a line, and the last part is the end of the text.
        let found = if parts.peek().is_none() && rest.ends_with(part) {
            Some(rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        if rest[..at].contains('\n') {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// Runs the programs of a section one after the other in one shell and one folder, and compares what each prints.
async fn run(heading: &str) {
    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let member = &cluster.members[0];
    let folder = member.folder.join("client");
    fs::create_dir(&folder).expect("a folder");
    symlink(root().join("proto").canonicalize().expect("the protocol files"), folder.join("proto"))
        .expect("a link");

    let (mut script, mut shown) = (String::from("set -euo pipefail\n"), Vec::new());
    for block in section(heading) {
        let words: Vec<&str> = block.words.iter().map(String::as_str).collect();
        match words[..] {
            ["sh"] => {
                script.push_str(&format!("{}echo '{NEXT}'\n", block.text));
                shown.push(String::new());
            }
            ["text"] => *shown.last_mut().expect("a program before its output") = block.text,
            [_, file] => fs::write(folder.join(file), block.text).expect("a file"),
            _ => panic!("{heading}: a block {words:?}"),
        }
    }
    assert!(!shown.is_empty(), "{heading} has programs");
    let output = bash(member, folder, script).await;
    let printed: Vec<&str> = output.split(&format!("{NEXT}\n")).collect();
    assert_eq!(printed.len(), shown.len() + 1, "{heading} prints\n{output}");
    for (shown, printed) in shown.iter().zip(printed) {
        assert!(matches(shown, printed), "{heading}: the page shows\n{shown}\nand it prints\n{printed}");
    }
}

async fn bash(member: &Member, folder: PathBuf, script: String) -> String {
    let binaries = binary_path("lattice").parent().expect("a folder").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", binaries.display()))
        .env("LATTICE_URL", &member.client.url)
        .env("LATTICE_NODE_KEY", &member.public_key);
    let output = tokio::task::spawn_blocking(move || command.output().expect("bash")).await.expect("its end");
    let (told, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{told}\n{complained}", output.status);
    told.into_owned()
}

#[tokio::test]
async fn curl_prints_what_the_page_says() {
    run("curl").await;
}

#[tokio::test]
#[ignore = "needs grpcurl: make clients"]
async fn grpcurl_prints_what_the_page_says() {
    run("grpcurl").await;
}

#[tokio::test]
#[ignore = "needs grpcio-tools of Python: make clients"]
async fn python_prints_what_the_page_says() {
    run("Python").await;
}

#[tokio::test]
async fn rust_prints_what_the_page_says() {
    let example =
        fs::read_to_string(root().join("crates/lattice-proto/examples/client.rs")).expect("the example");
    let [program, shown] = &section("Rust")[..] else { panic!("a program and its output") };
    assert_eq!(program.text, example, "the page shows another program than there is");

    let cluster = Cluster::new(&[P2p::Disabled]);
    let _nodes = cluster.start().await;
    let member = &cluster.members[0];
    let told = rust::run(&member.client.url, member.public_key.parse().expect("a key")).await;
    assert_eq!(told.expect("an end").join("\n") + "\n", shown.text);
}

#[test]
fn what_is_shown_stands_for_what_differs_within_a_line() {
    for (shown, text, same) in [
        ("a\n", "a\n", true),
        ("a\n", "b\n", false),
        ("at …, b …\n", "at 1, b 2\n", true),
        ("at …\n", "at 1\nb\n", false),
        ("\"…\"\n", "\"x\"\n", true),
        ("\"…\"\n", "\"x\n", false),
        ("", "a", false),
    ] {
        assert_eq!(matches(shown, text), same, "{shown:?} and {text:?}");
    }
}
