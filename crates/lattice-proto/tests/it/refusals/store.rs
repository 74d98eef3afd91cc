//! What is refused of what siblings ask of the store.

use lattice_core::tree::{Node, Position};
use lattice_proto::convert;
use lattice_proto::store::v1 as store;
use lattice_proto::types::v1 as types;

use super::zeros;
use crate::fixtures::*;

#[test]
fn what_siblings_ask_of_the_store() {
    let merge = |change: fn(&mut store::MergeRequest)| {
        let entries = vec![(&entry()).into()];
        let mut request = store::MergeRequest { entries, origin: store::Origin::Pull.into() };
        change(&mut request);
        convert::merge(request).map_err(|invalid| invalid.to_string())
    };
    assert_eq!(merge(|_| {}), Ok((vec![entry()], store::Origin::Pull)));
    assert_eq!(merge(|request| request.origin = 0), Err("origin: is missing".into()));
    assert_eq!(merge(|request| request.origin = 4), Err("origin: is none that is known here: 4".into()));
    assert_eq!(
        merge(|request| request.entries = vec![(&entry()).into(); 1_025]),
        Err("entries: takes at most 1024, got 1025".into())
    );
    assert_eq!(
        merge(|request| request.entries[0].version = None),
        Err("entries[0].version: is missing".into())
    );
    let too_many_bytes = merge(|request| {
        request.entries[0].content = Some(types::entry::Content::Value(zeros(1 << 20)));
        request.entries = vec![request.entries[0].clone(); 4];
    });
    assert!(too_many_bytes.unwrap_err().starts_with("entries: take at most 4194304 bytes together, got"));

    let positions = vec![(&position()).into(); 1_025];
    let error = convert::positions(store::NodesRequest { positions }).unwrap_err();
    assert_eq!(error.to_string(), "positions: takes at most 1024, got 1025");

    let heads = vec![(&head()).into(); 8_193];
    let error = convert::compare_heads(store::CompareRequest { heads }).unwrap_err();
    assert_eq!(error.to_string(), "heads: takes at most 8192, got 8193");

    let head = entry().head();
    let own = |node: store::OwnNode| {
        convert::own_node(&Position::ROOT, node).map_err(|invalid| invalid.to_string())
    };
    let inner = Node::Inner(Box::new(children()));
    let bucket = Node::Bucket(vec![head]);
    for node in [inner.clone(), bucket, Node::empty_bucket()] {
        assert_eq!(own((&node).into()), Ok(node));
    }
    let few = store::OwnNode { children: vec![(&summary()).into()], heads: Vec::new() };
    assert_eq!(own(few), Err("children: an inner node has 16 children, got 1".into()));
    let both = store::OwnNode { heads: vec![(&head).into()], ..(&inner).into() };
    assert_eq!(own(both), Err("heads: takes at most 0, got 1".into()));
    let many = store::OwnNode { children: Vec::new(), heads: vec![(&head).into(); 33] };
    assert_eq!(own(many), Err("heads: takes at most 32, got 33".into()));
    let twice = store::OwnNode { children: Vec::new(), heads: vec![(&head).into(); 2] };
    assert_eq!(own(twice), Err("heads: heads[1].key_hash does not lie after the one before it".into()));

    let error = convert::nodes("nodes", &[zeros(32), zeros(3)], 8).unwrap_err();
    assert_eq!(error.to_string(), "nodes[1]: a node is 32 bytes, got 3");
    let error = convert::nodes("nodes", &[zeros(32), zeros(32)], 1).unwrap_err();
    assert_eq!(error.to_string(), "nodes: takes at most 1, got 2");
}

#[test]
fn what_the_store_says_of_damage() {
    let damaged = |change: fn(&mut store::DamagedResponse)| {
        let key = entry().key.into_bytes();
        let damaged = store::DamagedEntry { key, head: Some((&entry().head()).into()), ..Default::default() };
        let mut response = store::DamagedResponse { entries: vec![damaged], overflow: false };
        change(&mut response);
        convert::Damaged::try_from(response).map_err(|invalid| invalid.to_string())
    };
    let listed = |head| convert::Damaged { entries: vec![(entry().key, head)], overflow: false };
    assert_eq!(damaged(|_| {}), Ok(listed(Some(entry().head()))));
    assert_eq!(damaged(|response| response.entries[0].head = None), Ok(listed(None)));
    assert_eq!(
        damaged(|response| response.entries = vec![store::DamagedEntry::default(); 1_001]),
        Err("entries: takes at most 1000, got 1001".into())
    );
    let no_key = damaged(|response| response.entries[0].key = zeros(0)).unwrap_err();
    assert!(no_key.starts_with("entries[0].key: "), "{no_key}");
}
