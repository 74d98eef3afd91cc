//! Remembers every root that the store ever published, over all of its lives.

use std::collections::BTreeMap;

use lattice_core::model::{Epoch, Incarnation};
use lattice_core::seal::{Root, Run};
use lattice_proto::codec::open_seal;
use lattice_proto::convert::Seals;
use lattice_proto::store::v1 as wire;
use lattice_proto::store::v1::state_store_client::StateStoreClient;
use lattice_runtime::grpc::Channel;

/// What was published.
#[derive(Debug, Default)]
pub(super) struct Witness {
    incarnation: Option<Incarnation>,
    roots: BTreeMap<Epoch, Option<Root>>,
}

impl Witness {
    /// Watches a store until it dies.
    pub(super) fn watch(
        &mut self,
        mut store: StateStoreClient<Channel>,
    ) -> impl Future<Output = Self> + Send + use<> {
        let mut witness = std::mem::take(self);
        async move {
            if let Ok(stream) = store.watch_seals(wire::WatchSealsRequest {}).await {
                let mut stream = stream.into_inner();
                while let Ok(Some(seals)) = stream.message().await {
                    witness.note(seals);
                }
            }
            witness
        }
    }

    /// Notes what a store says of itself. Answers with its newest run.
    pub(super) fn note(&mut self, seals: wire::SealsResponse) -> Option<Run> {
        let seals = Seals::try_from(seals).unwrap();
        let incarnation = *self.incarnation.get_or_insert(seals.incarnation);
        assert_eq!(seals.incarnation, incarnation, "a kill makes no new incarnation");
        assert_eq!(seals.damage_generation, 0, "a kill damages nothing");
        for run in &seals.runs {
            for epoch in run.from.0..=run.to.0 {
                self.published(Epoch(epoch), run.root);
            }
        }
        if let Some(newest) = &seals.newest {
            let seal = open_seal(&newest.signed).unwrap().seal;
            assert_eq!(seal.incarnation, incarnation);
            self.published(seal.epoch, seal.root);
        }
        seals.runs.last().copied()
    }

    fn published(&mut self, epoch: Epoch, root: Option<Root>) {
        let before = *self.roots.entry(epoch).or_insert(root);
        assert_eq!(before, root, "{epoch:?} was published with another root");
    }

    /// How many epochs were seen sealed.
    pub(super) fn epochs(&self) -> usize {
        self.roots.len()
    }
}
