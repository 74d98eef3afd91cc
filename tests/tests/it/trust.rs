//! Whom a node trusts, and what becomes of those whom it does not, or does no more: on both paths, at once.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use lattice_core::exchange::Reason;
use lattice_tests::cluster::binary_path;
use lattice_tests::hostile::offer::Offer;
use lattice_tests::hostile::scene::{Scene, public};
use lattice_tests::hostile::{Kind, Mouth, Path};
use lattice_tests::wait::{eventually, throughout, wall};
use reqwest::Method;

/// A pull is to be ended by what happens to the key, not by the clock.
const PATIENT: [&str; 1] = ["coordinator.request_timeout=30s"];

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// One who is asked, and never answers.
fn silent(key: SigningKey) -> Mouth {
    Mouth::new(Kind::Nothing, Offer::new(key, wall()), self::key(9))
}

/// Has the honest node pull from a member, which goes on until the key is removed.
async fn removed_in_the_middle_of_a_pull(path: Path, remove: impl AsyncFnOnce(&Scene)) -> Scene {
    let member = key(7);
    let scene = Scene::start_with(path, std::slice::from_ref(&member), &PATIENT).await;
    let guest = scene.meet(silent(member.clone())).await;
    let id = scene.reconcile(&guest.node).await;
    eventually("the member is asked", async || (scene.told(&guest) > 0).then_some(())).await;
    assert_eq!(scene.greet(&member).await, Reason::Challenge, "a member is given a challenge");

    remove(&scene).await;
    let seen = scene.ended("the pull", &id).await;
    assert_eq!((seen.outcome.as_str(), seen.merged), ("Stale", 0));
    assert_eq!(seen.detail, "the peer is no longer trusted");
    eventually("its requests are refused", async || {
        (scene.greet(&member).await == Reason::Untrusted).then_some(())
    })
    .await;
    assert_eq!(scene.honest().peer(&guest.node).await, None, "it is no peer any more");
    match path {
        Path::Http => {
            eventually("what it serves is refused", async || {
                let peers = scene.honest().json("/api/lattice/peers").await?;
                peers.to_string().contains("is not trusted").then_some(())
            })
            .await;
        }
        Path::P2p => {
            eventually("its connections are closed, again and again", async || {
                (guest.closed() > 1).then_some(())
            })
            .await;
            throughout("nobody is connected", Duration::from_secs(1), async || {
                let status = scene.honest().p2p_status().await;
                status.is_some_and(|status| status["peer_count"] == 0 && status["zombie_count"] == 0)
            })
            .await;
        }
    }

    // It has kept on trying.
    let answer = scene
        .honest()
        .send(Method::POST, &format!("/api/lattice/trust/{}", guest.node))
        .await
        .expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    scene.known(&guest).await;
    eventually("its requests are heard again", async || {
        (scene.greet(&member).await == Reason::Challenge).then_some(())
    })
    .await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_removed_by_command_ends_its_pull_and_is_refused_at_once_over_http() {
    removed_in_the_middle_of_a_pull(Path::Http, async |scene| {
        let args = ["--url", &scene.honest().url, "trust", "remove", &public(&key(7))].map(str::to_owned);
        let run = move || Command::new(binary_path("lattice")).args(args).stdin(Stdio::null()).output();
        let removed = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        assert_eq!(removed.status.code(), Some(0), "{}", String::from_utf8_lossy(&removed.stderr));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_removed_on_disk_ends_its_pull_and_is_refused_at_once_over_p2p() {
    let scene = removed_in_the_middle_of_a_pull(Path::P2p, async |scene| {
        let list = format!("{{\"added\": [], \"removed\": [\"{}\"]}}", public(&key(7)));
        fs::write(scene.trust_file(), list).unwrap();
    })
    .await;

    // A list that is damaged changes nothing, and nothing is written over it.
    fs::write(scene.trust_file(), "{\"added\": [").unwrap();
    let path = format!("/api/lattice/trust/{}", public(&key(8)));
    let refused = scene.honest().send(Method::POST, &path).await.unwrap();
    assert!(!refused.status().is_success(), "{refused:?}");
    assert_eq!(fs::read_to_string(scene.trust_file()).unwrap(), "{\"added\": [");
    assert_eq!(scene.greet(&key(7)).await, Reason::Challenge);
    fs::write(scene.trust_file(), format!("{{\"added\": [\"{}\"], \"removed\": []}}", public(&key(8))))
        .unwrap();
    eventually("a key that was added on disk is a member", async || {
        (scene.greet(&key(8)).await == Reason::Challenge).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_neither_asked_nor_answered_nor_kept() {
    for path in [Path::Http, Path::P2p] {
        let scene = Scene::start(path, &[]).await;
        let guest = scene.enter(silent(key(7)));
        match path {
            Path::Http => {
                eventually("what it serves is refused", async || {
                    let peers = scene.honest().json("/api/lattice/peers").await?;
                    peers.to_string().contains("is not trusted").then_some(())
                })
                .await;
            }
            Path::P2p => {
                eventually("its connections are closed", async || (guest.closed() > 1).then_some(())).await;
            }
        }
        assert_eq!(scene.greet(&key(7)).await, Reason::Untrusted);
        assert_eq!(scene.honest().peer(&guest.node).await, None);
        let path = format!("/api/lattice/reconcile?peer={}", guest.node);
        let answer = scene.honest().send(Method::POST, &path).await.unwrap();
        assert_eq!(answer.status().as_u16(), 404);
        assert_eq!(scene.told(&guest), 0, "it was asked nothing");
    }
}
