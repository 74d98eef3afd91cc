//! Gateways that serve TLS: nodes, people and probes ask them over it, and certificates and tokens are renewed
//! while they run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use lattice_tests::client::Client;
use lattice_tests::cluster::{Cluster, Member, P2p, Process, binary_path};
use lattice_tests::wait::eventually;
use reqwest::Method;

/// Writes a new certificate for this host and its key, and returns the certificate.
fn renew(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let new = folder.join(format!("{name}.new"));
        fs::write(&new, text).expect("a file");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("its mode");
        fs::rename(new, path).expect("its name");
    };
    write("tls.crt", &made.cert.pem());
    write("tls.key", &made.key_pair.serialize_pem());
    made.cert.pem()
}

/// Two nodes that have no other path than HTTPS, with one certificate.
fn over_tls() -> (Cluster, String) {
    let mut cluster = Cluster::new(&[P2p::Disabled; 2]);
    let folder = cluster.members[0].folder.clone();
    let ca = renew(&folder);
    fs::write(folder.join("ca.pem"), &ca).expect("a file");
    for member in &mut cluster.members {
        let text = fs::read_to_string(&member.config).expect("a file").replace("http://", "https://");
        let ca_line = format!("[coordinator]\nhttp_ca = \"{}\"\n", folder.join("ca.pem").display());
        let text = format!(
            "{}tls_cert = \"{}\"\ntls_key = \"{}\"\n",
            text.replace("[coordinator]\n", &ca_line),
            folder.join("tls.crt").display(),
            folder.join("tls.key").display(),
        );
        fs::write(&member.config, text).expect("a file");
        member.client = Client::with_ca(&member.client.url.replace("http://", "https://"), &ca);
    }
    (cluster, ca)
}

async fn lattice(member: &Member, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary_path("lattice"));
    command.args(["--url", &member.client.url]).args(args).envs(env.iter().copied()).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("the binary")).await.expect("its end")
}

#[tokio::test]
async fn nodes_heal_and_people_ask_over_tls() {
    let (cluster, _) = over_tls();
    let _nodes = cluster.start().await;
    let [first, second] = &cluster.members[..] else { panic!("two nodes") };
    first.client.put("greeting", "hello").await.unwrap();
    second.wait_value("greeting", "hello").await;

    let ca = first.folder.join("ca.pem").display().to_string();
    let get = lattice(first, &["--ca", &ca, "get", "greeting"], &[]).await;
    assert_eq!((get.status.code(), &get.stdout[..]), (Some(0), &b"hello"[..]), "{get:?}");
    let get = lattice(first, &["get", "greeting"], &[("LATTICE_CA", &ca)]).await;
    assert_eq!(get.status.code(), Some(0), "{get:?}");
    // Nobody whom the system trusts has signed that.
    let get = lattice(first, &["get", "greeting"], &[]).await;
    let stderr = String::from_utf8_lossy(&get.stderr).into_owned();
    assert_eq!(get.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("certificate"), "{stderr}");
    // What does not speak TLS gets no answer, and learns nothing.
    let plain = first.client.url.replace("https://", "http://");
    assert!(Client::new(&plain).send(Method::GET, "/healthz").await.is_err());
}

#[tokio::test]
async fn certificates_and_tokens_are_renewed_while_the_node_runs() {
    let (cluster, _) = over_tls();
    let member = &cluster.members[0];
    let tokens = member.folder.join("tokens");
    let write = |text: &str| {
        fs::write(&tokens, text).unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("read first-token\n");
    let text = fs::read_to_string(&member.config).unwrap();
    fs::write(&member.config, format!("{text}token_file = \"{}\"\n", tokens.display())).unwrap();
    let node = member.start();
    member.wait_ready().await;
    let ca = member.folder.join("ca.pem").display().to_string();
    let list = async |token: &str| {
        lattice(member, &["--ca", &ca, "list"], &[("LATTICE_TOKEN", token)]).await.status.code()
    };
    assert_eq!((list("first-token").await, list("second-token").await), (Some(0), Some(3)));

    write("read second-token\n");
    eventually("the new token is known", async || (list("second-token").await == Some(0)).then_some(()))
        .await;
    assert_eq!(list("first-token").await, Some(3));
    write("this is no token file\n");
    eventually("the bad file is in the log", async || {
        node.output().contains("what was read before stays in use").then_some(())
    })
    .await;
    assert_eq!(list("second-token").await, Some(0));

    let renewed = renew(&member.folder);
    let client = Client::with_ca(&member.client.url, &renewed);
    eventually("the new certificate is served", async || client.ready().await).await;
    let output = node.output();
    assert!(!output.contains("-token") && !output.contains("PRIVATE KEY"), "{output}");
}

#[tokio::test]
async fn a_gateway_of_its_own_is_probed_over_tls() {
    let (cluster, _) = over_tls();
    let member = &cluster.members[0];
    let _services: Vec<Process> = ["state-store", "p2p-sensor", "sync-coordinator", "gateway"]
        .map(|name| member.start_service(name))
        .into();
    member.wait_ready().await;
    let config = member.config.display().to_string();
    let probe = || {
        let mut command = Command::new(binary_path("gateway"));
        command.args(["healthcheck", "--config", &config]);
        tokio::task::spawn_blocking(move || command.output().expect("the binary"))
    };
    let probed = probe().await.unwrap();
    assert_eq!(probed.status.code(), Some(0), "{probed:?}");
    renew(&member.folder);
    // Whatever certificate is served just now.
    assert_eq!(probe().await.unwrap().status.code(), Some(0));
}
