//! The story, step by step; each step waits until its claim is true of the running nodes.

use std::cell::Cell;
use std::time::Duration;

use lattice_core::model::{Digest, Epoch};
use lattice_proto::coordinator::v1::{Event, SyncMode};

use super::cluster::{Cluster, Member};
use super::narrator::Narrator;
use super::observe::wait;

/// Tells the story.
///
/// # Errors
/// The first claim that was not seen in time.
pub(super) async fn tell(cluster: &Cluster, narrator: &Narrator) -> Result<(), String> {
    let followers: Vec<_> = cluster
        .members()
        .iter()
        .map(|member| {
            let (observer, name, narrator) = (member.observer.clone(), member.name.clone(), *narrator);
            tokio::spawn(async move { observer.follow(name, narrator).await })
        })
        .collect();
    let told = Story { cluster, narrator, steps: Cell::new(0) }.tell().await;
    followers.iter().for_each(tokio::task::JoinHandle::abort);
    told
}

struct Story<'a> {
    cluster: &'a Cluster,
    narrator: &'a Narrator,
    /// Steps told so far.
    steps: Cell<usize>,
}

/// Where each node's events stood, in the order of the members.
type Marks = Vec<usize>;

impl Story<'_> {
    async fn tell(&self) -> Result<(), String> {
        self.nodes_start();
        self.peers_are_found().await?;
        self.a_write_is_seen_everywhere("weather", "sunny").await?;
        self.roots_agree().await?;
        let marks = self.one_is_cut_off().await?;
        self.both_sides_write().await?;
        self.http_takes_over(&marks).await?;
        self.divergence_is_counted(&marks).await?;
        self.reconciliation_heals(&marks).await?;
        self.roots_agree().await?;
        self.p2p_comes_back(&marks).await?;
        self.a_write_is_seen_everywhere("weather", "sunny again").await?;
        self.roots_agree().await
    }

    fn nodes_start(&self) {
        self.step("Nodes start, each with its own key, ports and data folder");
        for member in self.members() {
            self.narrator.seen(&format!("{} is {} at {}", member.name, member.id.short(), member.url));
        }
    }

    async fn peers_are_found(&self) -> Result<(), String> {
        self.step("They find each other over libp2p");
        for member in self.members() {
            self.wait_live(member, self.members().len() - 1).await?;
        }
        Ok(())
    }

    async fn a_write_is_seen_everywhere(&self, key: &str, value: &str) -> Result<(), String> {
        self.step(&format!("A write to {} is seen on all nodes", self.first().name));
        self.put(self.first(), key, value).await?;
        for member in self.members() {
            self.wait_value(member, key, value).await?;
        }
        Ok(())
    }

    /// All nodes have one root at an epoch that covers everything written before this step.
    async fn roots_agree(&self) -> Result<(), String> {
        self.step("The sealed roots agree");
        let now = self.cluster.current_epoch();
        let what = format!("equal roots at a common epoch after {now}");
        let (epoch, root) = wait(&what, self.patience(), async || self.common_root(now).await).await?;
        self.narrator.seen(&format!("all {} nodes have root {root} at epoch {epoch}", self.members().len()));
        Ok(())
    }

    async fn one_is_cut_off(&self) -> Result<Marks, String> {
        let lost = self.lost();
        self.step(&format!(
            "{} is cut off from P2P: its swarm closes, cannot dial, lets nobody in",
            lost.name
        ));
        let marks = self.members().iter().map(|member| member.observer.mark()).collect();
        lost.partition.cut();
        self.wait_live(lost, 0).await?;
        for member in self.others() {
            self.wait_live(member, self.members().len() - 2).await?;
        }
        let what = format!("the timer towards HTTP on {}", lost.name);
        let left =
            wait(&what, self.patience(), async || lost.observer.status().await?.fallback_in_ms).await?;
        self.narrator.seen(&format!(
            "{} knows that it is isolated: HTTP takes over in {:.1} s of {:.0} s",
            lost.name,
            left as f64 / 1_000.0,
            self.cluster.pace().peerless_timeout.as_secs_f64()
        ));
        Ok(marks)
    }

    async fn both_sides_write(&self) -> Result<(), String> {
        self.step("Both sides go on writing, and do not see each other's writes");
        let (first, lost) = (self.first(), self.lost());
        self.put(first, "mainland", "we are many").await?;
        self.put(lost, "island", "I am alone").await?;
        for (member, key) in [(first, "island"), (lost, "mainland")] {
            match member.observer.get(key).await {
                Some(None) => self.narrator.seen(&format!("{} does not have {key:?}", member.name)),
                Some(Some(value)) => {
                    return Err(format!("{} without {key:?}: it has {value:?}", member.name));
                }
                None => return Err(format!("an answer of {} about {key:?}", member.name)),
            }
        }
        Ok(())
    }

    async fn http_takes_over(&self, marks: &Marks) -> Result<(), String> {
        let lost = self.lost();
        self.step(&format!("{} breathes through its second lung: HTTP", lost.name));
        self.wait_mode(lost, SyncMode::Http).await?;
        let mark = marks[marks.len() - 1];
        let activated = wait("the activation in its log", self.patience(), async || {
            lost.observer.heard(mark, |event| event.component == "HTTP_SYNC" && event.tag == "LUNG")
        });
        self.narrator.seen(&format!("{} says: {}", lost.name, activated.await?.message));
        Ok(())
    }

    /// Whichever side of a pair counts to three first pulls first.
    async fn divergence_is_counted(&self, marks: &Marks) -> Result<(), String> {
        self.step("Roots differ three times in a row");
        for count in 1..=3 {
            let (what, ends) = (format!("divergence {count}"), format!("(count: {count})"));
            let seen = self.wait_event(marks, &what, |event| {
                event.tag == "DIVERGENCE" && event.message.ends_with(&ends)
            });
            let (name, message) = seen.await?;
            self.narrator.seen(&format!("{name} says: {message}"));
        }
        Ok(())
    }

    async fn reconciliation_heals(&self, marks: &Marks) -> Result<(), String> {
        self.step("Reconciliation starts by itself, and both sides get what they lack");
        for (tag, what) in [("SURGEON", "a pull that starts"), ("RECONCILIATION", "a pull that heals")] {
            let (name, message) = self.wait_event(marks, what, |event| event.tag == tag).await?;
            self.narrator.seen(&format!("{name} says: {message}"));
        }
        for member in self.members() {
            self.wait_value(member, "mainland", "we are many").await?;
            self.wait_value(member, "island", "I am alone").await?;
        }
        let lost = self.lost();
        let healed = wait("the heal on record", self.patience(), async || {
            for member in self.members() {
                let heals = member.observer.heals().await?;
                let concerns_lost = member.id == lost.id;
                let heal = heals.into_iter().find(|heal| {
                    heal.outcome == "Healed"
                        && heal.entries_merged > 0
                        && (concerns_lost || heal.node == lost.id.as_bytes()[..])
                });
                if let Some(heal) = heal {
                    return Some((member.name.clone(), heal));
                }
            }
            None
        });
        let (name, heal) = healed.await?;
        self.narrator.seen(&format!(
            "{name} has it on record: {} from {}, {} merged in {} rounds, {} bytes in, trace {}",
            heal.outcome, heal.peer, heal.entries_merged, heal.rounds, heal.bytes_in, heal.trace_id
        ));
        Ok(())
    }

    async fn p2p_comes_back(&self, marks: &Marks) -> Result<(), String> {
        let lost = self.lost();
        self.step(&format!("{} is let back in, and returns to P2P", lost.name));
        lost.partition.heal();
        for member in self.members() {
            self.wait_live(member, self.members().len() - 1).await?;
        }
        self.wait_mode(lost, SyncMode::P2p).await?;
        let mark = marks[marks.len() - 1];
        let returned = wait("the return in its log", self.patience(), async || {
            lost.observer.heard(mark, |event| event.component == "P2P_SYNC" && event.tag == "LUNG")
        });
        self.narrator.seen(&format!("{} says: {}", lost.name, returned.await?.message));
        Ok(())
    }

    async fn put(&self, member: &Member, key: &str, value: &str) -> Result<(), String> {
        member.observer.put(key, value).await.map_err(|why| format!("a write to {}: {why}", member.name))?;
        self.narrator.seen(&format!("{} acknowledged {key:?} = {value:?}", member.name));
        Ok(())
    }

    async fn wait_live(&self, member: &Member, expected: usize) -> Result<(), String> {
        let what = format!("{expected} live peers on {}", member.name);
        wait(&what, self.patience(), async || {
            (member.observer.live_peers().await? as usize == expected).then_some(())
        })
        .await?;
        self.narrator.seen(&format!("{} counts {expected} live peers", member.name));
        Ok(())
    }

    async fn wait_value(&self, member: &Member, key: &str, value: &str) -> Result<(), String> {
        let what = format!("{key:?} = {value:?} on {}", member.name);
        wait(&what, self.patience(), async || (member.observer.get(key).await?? == value).then_some(()))
            .await?;
        self.narrator.seen(&format!("{} reads {key:?} = {value:?}", member.name));
        Ok(())
    }

    async fn wait_mode(&self, member: &Member, mode: SyncMode) -> Result<(), String> {
        let name = if mode == SyncMode::Http { "HTTP" } else { "P2P" };
        let what = format!("sync mode {name} on {}", member.name);
        wait(&what, self.patience(), async || {
            (member.observer.status().await?.sync_mode() == mode).then_some(())
        })
        .await?;
        self.narrator.seen(&format!("{} reports sync mode {name}", member.name));
        Ok(())
    }

    /// The first event since `marks` that fits, on any node.
    async fn wait_event(
        &self,
        marks: &Marks,
        what: &str,
        fits: impl Fn(&Event) -> bool,
    ) -> Result<(String, String), String> {
        wait(what, self.patience(), async || {
            self.members().iter().zip(marks).find_map(|(member, mark)| {
                member.observer.heard(*mark, &fits).map(|event| (member.name.clone(), event.message))
            })
        })
        .await
    }

    /// The root that all nodes have at their newest common epoch, if that lies after `after`.
    async fn common_root(&self, after: Epoch) -> Option<(Epoch, Digest)> {
        let mut all = Vec::new();
        for member in self.members() {
            all.push(member.observer.runs().await?);
        }
        let ends: Option<Vec<Epoch>> = all.iter().map(|runs| runs.newest().map(|run| run.to)).collect();
        let epoch = ends?.into_iter().min().filter(|epoch| *epoch > after)?;
        let roots: Option<Vec<_>> = all.iter().map(|runs| runs.at(epoch)).collect();
        let digests: Option<Vec<Digest>> =
            roots?.into_iter().map(|root| root.map(|root| root.digest)).collect();
        let digests = digests?;
        digests.iter().all(|digest| *digest == digests[0]).then_some((epoch, digests[0]))
    }

    fn step(&self, title: &str) {
        self.steps.set(self.steps.get() + 1);
        self.narrator.step(self.steps.get(), title);
    }

    fn members(&self) -> &[Member] {
        self.cluster.members()
    }

    fn first(&self) -> &Member {
        &self.members()[0]
    }

    /// The one that is cut off.
    fn lost(&self) -> &Member {
        &self.members()[self.members().len() - 1]
    }

    fn others(&self) -> &[Member] {
        &self.members()[..self.members().len() - 1]
    }

    fn patience(&self) -> Duration {
        self.cluster.pace().patience
    }
}
